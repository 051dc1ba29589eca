"""cryoSPARC's .cs files: what their fields mean, what is missing, what is no particle file, and subsets."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaussemble.errors import InputError
from gaussemble.io.cryosparc import euler_angles, rotation_vectors
from gaussemble.io.refinement import Refinement, read_refinement
from gaussemble.io.relion import interpret
from gaussemble.physics.rotations import euler_to_matrix
from made_cs import exponential, layout, logarithm, relion_matrix, write_cs

COUNT = 6
HALF_TURN = np.pi
POSES = {
    "none": [0, 0, 0],
    "about z, tilt 0": [0, 0, 0.7],
    "about z beyond half a turn": [0, 0, 4.0],
    "half a turn about x, tilt 180": [HALF_TURN, 0, 0],
    "half a turn in the plane, tilt 180": [HALF_TURN * np.cos(0.3), HALF_TURN * np.sin(0.3), 0],
    "nearly tilt 0": [1e-9, 0, 1.2],
    "nearly tilt 180": [HALF_TURN - 1e-9, 0, 1e-10],
    "about y": [0, -1.1, 0],
    "any": [0.4, -1.3, 2.2],
    "longer than half a turn": [2.3, -0.25, -2.9],
}


def read(tmp_path, **changes) -> Refinement:
    """A refinement with some fields changed, or left out where they are None."""
    fields = {name: each for name, each in (layout(COUNT) | changes).items() if each is not None}
    return read_refinement(write_cs(tmp_path / "J9" / "run.cs", fields))


def without(*starts: str) -> dict:
    """Changes that leave out the fields of these names."""
    return {name: None for name in layout(1) if name.startswith(starts)}


def refused(tmp_path, words: str, **changes) -> None:
    """The file is refused in one line with these words."""
    with pytest.raises(InputError, match=words) as refusal:
        read(tmp_path, **changes)
    assert "\n" not in str(refusal.value)
    assert "run.cs" in str(refusal.value)


@pytest.mark.parametrize("name", POSES)
def test_a_pose_is_the_transposed_rotation_of_relions_angles(name):
    vector = np.array(POSES[name], np.float64)
    angles = euler_angles(vector[None])
    ours = euler_to_matrix(torch.from_numpy(angles))[0].numpy()
    assert np.abs(ours - exponential(vector).T).max() < 1e-6
    assert np.abs(relion_matrix(*np.rad2deg(angles[0])) - exponential(vector).T).max() < 1e-6
    again = exponential(rotation_vectors(angles)[0])
    assert np.abs(again - exponential(vector)).max() < 1e-6


@pytest.mark.parametrize("angles", [(10.0, 20, 30), (-75, 95, 140), (160, 40, -20), (0, 71, 0), (33, 178, 5)])
def test_relions_angles_come_back(angles):
    vector = logarithm(relion_matrix(*angles).T)
    assert np.allclose(np.rad2deg(euler_angles(vector[None]))[0], angles, atol=1e-6)
    wrong = logarithm(relion_matrix(*angles))  # not transposed
    assert not np.allclose(np.rad2deg(euler_angles(wrong[None]))[0], angles, atol=1)


def test_every_field_arrives_in_our_units(tmp_path):
    fields = layout(COUNT)
    refinement = read(
        tmp_path, **{"ctf/phase_shift_rad": np.full(COUNT, 0.5, "f4"), "ctf/bfactor": np.full(COUNT, 9.0)}
    )
    found = interpret(refinement.star)
    for row in range(COUNT):
        matrix = euler_to_matrix(torch.from_numpy(found.angles[row : row + 1]))[0].numpy()
        assert np.abs(matrix - exponential(fields["alignments3D/pose"][row].astype(float)).T).max() < 1e-6
    assert np.allclose(found.shift, fields["alignments3D/shift"] * 1.5)
    assert np.allclose(found.ctf.defocus_u, fields["ctf/df1_A"])
    assert np.allclose(found.ctf.defocus_v, fields["ctf/df2_A"])
    assert np.allclose(found.ctf.defocus_angle, fields["ctf/df_angle_rad"])
    assert np.allclose(found.ctf.phase_shift, 0.5)
    assert np.allclose(found.ctf.b_factor, 9)
    assert np.allclose(found.ctf.voltage, 300e3)
    assert np.allclose(found.ctf.spherical_aberration, 2.7e7)
    assert np.allclose(found.ctf.amplitude_contrast, 0.1)
    assert refinement.sign == -1
    assert refinement.star.particles["rlnImageName"].tolist() == [
        f"{n:06d}@J7/extract/stack.mrc" for n in range(1, COUNT + 1)
    ]
    assert refinement.star.particles["rlnRandomSubset"].tolist() == [1, 1, 2, 2, 1, 1]
    assert refinement.star.optics is not None
    assert refinement.star.optics.iloc[0].to_dict() == pytest.approx(
        {
            "rlnOpticsGroup": 1,
            "rlnOpticsGroupName": "group3",
            "rlnVoltage": 300,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnImagePixelSize": 1.5,
            "rlnImageSize": 16,
            "rlnImageDimensionality": 2,
        }
    )
    assert refinement.assumed == []


def test_shifts_are_in_pixels_of_the_alignment_and_not_of_the_image(tmp_path):
    """A heterogeneous refinement aligns downsampled images: its pixels are larger."""
    shift = layout(COUNT)["alignments3D/shift"]
    larger = read(tmp_path, **{"alignments3D/psize_A": np.full(COUNT, 4.5, "f4")})
    assert np.allclose(interpret(larger.star).shift, shift * 4.5)
    none = read(tmp_path, **{"alignments3D/psize_A": None})
    assert np.allclose(interpret(none.star).shift, shift * 1.5)
    assert "pixels of the images" in none.assumed[0]
    neither = read(tmp_path, **{"alignments3D/psize_A": None, "blob/psize_A": None})
    assert np.allclose(interpret(neither.star, pixel_size=2.0).shift, shift * 2.0)


def test_exposure_groups_are_optics_groups(tmp_path):
    group = np.array([7, 7, 2, 2, 7, 2], "u4")
    spherical = np.array([2.7, 2.7, 2.6, 2.6, 2.7, 2.6], "f4")
    pixel = np.array([1.5, 1.5, 1.5, 1.5, 1.5, 2.0], "f4")
    star = read(tmp_path, **{"ctf/exp_group_id": group, "ctf/cs_mm": spherical, "blob/psize_A": pixel}).star
    assert star.optics is not None
    assert star.optics["rlnOpticsGroupName"].tolist() == ["group2", "group2_2", "group7"]
    assert star.optics["rlnImagePixelSize"].tolist() == [1.5, 2.0, 1.5]
    assert star.particles["rlnOpticsGroup"].tolist() == [3, 3, 1, 1, 3, 2]
    assert np.allclose(interpret(star, pixel_size=1.5).ctf.spherical_aberration, spherical * 1e7)


def test_what_is_not_used_is_said(tmp_path):
    tilt = np.full((COUNT, 2), 0.3, "f4")
    assumed = read(tmp_path, **{"ctf/tilt_A": tilt, "alignments3D/split": np.zeros(COUNT, "u4")}).assumed
    assert any("aberrations are not used: ctf/tilt_A" in sentence for sentence in assumed)
    assert any("alignments3D/split" in sentence for sentence in assumed)


def test_scales_that_differ_are_used(tmp_path):
    scale = np.linspace(0.5, 1.5, COUNT).astype("f4")
    assert np.allclose(interpret(read(tmp_path, **{"ctf/scale": scale}).star).ctf.scale, scale)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["alignments3D/pose"], "no field alignments3D/pose: .*no poses.*refinement"),
        (["alignments3D/shift"], "no field alignments3D/shift"),
        (["blob/path"], "no field blob/path.*passthrough"),
        (["blob/idx"], "no field blob/idx"),
        (["ctf/df1_A"], "no field ctf/df1_A.*passthrough"),
        (["ctf/cs_mm"], "no field ctf/cs_mm"),
        (["uid"], "no table with a field uid"),
    ],
)
def test_a_missing_field_is_named(tmp_path, missing, words):
    refused(tmp_path, words, **dict.fromkeys(missing))


def test_images_without_a_ctf(tmp_path, capsys):
    star = read(tmp_path, **without("ctf/")).star
    assert "no fields ctf/" in capsys.readouterr().err
    assert len(interpret(star, ctf=False).angles) == COUNT
    with pytest.raises(InputError, match="CTF"):
        interpret(star)


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("alignments3D/pose", np.zeros((COUNT, 2), "f4"), r"pose is float32 \(2,\); expected 3 finite numbers"),
        ("alignments3D/pose", np.zeros(COUNT, "f4"), "pose is float32; expected 3"),
        ("alignments3D/pose", np.full((COUNT, 3), np.nan, "f4"), r"row 0 \(from 0\): alignments3D/pose is \[nan"),
        ("alignments3D/shift", np.full((COUNT, 2), np.inf, "f4"), "row 0"),
        ("ctf/df1_A", np.array([b"1000"] * COUNT), "df1_A is bytes32; expected a finite number"),
        ("blob/path", np.arange(COUNT), "blob/path is int64; expected a text"),
        ("blob/path", np.array([b"\xff\xfe"] * COUNT), "not UTF-8"),
        ("blob/idx", np.full(COUNT, -1), "blob/idx is -1"),
        ("blob/idx", np.full(COUNT, 0.5), "blob/idx is 0.5"),
        ("uid", np.full(COUNT, 0.5), "uid is float64; expected a whole number"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, field, values, words):
    refused(tmp_path, words, **{field: values})


def test_the_row_of_a_bad_number_is_named(tmp_path):
    pose = layout(COUNT)["alignments3D/pose"]
    pose[4, 1] = np.nan
    refused(tmp_path, r"row 4 \(from 0\).*1 such rows", **{"alignments3D/pose": pose})


def test_maps_and_micrographs_are_refused_by_name(tmp_path):
    volume = {"uid": np.zeros(1, "u8"), "map/path": np.array([b"J2/map.mrc"]), "map/psize_A": np.ones(1)}
    with pytest.raises(InputError, match="no particles: it describes map;"):
        read_refinement(write_cs(tmp_path / "volume.cs", volume))
    (tmp_path / "group.csg").write_text("created: 2023\n")
    with pytest.raises(InputError, match=r"give the \.cs file that this \.csg names"):
        read_refinement(tmp_path / "group.csg")


def test_two_dimensional_classes_have_no_poses(tmp_path):
    pose = {"alignments2D/pose": np.zeros(COUNT, "f4")}
    refused(tmp_path, r"no poses \(it has alignments2D\)", **without("alignments3D"), **pose)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x94CSDAT...", "compressed stream"),
        (b"data_particles\n", "not a .cs file"),
        (b"", "not a .cs file"),
        (b"\x93NUMPY", "cannot be read as a .cs file"),
        (b"\x93NUMPY\x01\x00\x10\x00(((((((((((((((\n", "cannot be read as a .cs file"),
    ],
)
def test_other_files_of_that_name_are_refused(tmp_path, content, words):
    (tmp_path / "run.cs").write_bytes(content)
    with pytest.raises(InputError, match=words) as refusal:
        read_refinement(tmp_path / "run.cs")
    assert "\n" not in str(refusal.value)


def test_objects_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (__import__("os").system, (f"touch {tmp_path / 'exploded'}",))

    table = np.empty(2, [("uid", "u8"), ("blob/path", object)])
    table["blob/path"] = Bomb()
    with (tmp_path / "run.cs").open("wb") as file:
        np.save(file, table, allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read") as refusal:
        read_refinement(tmp_path / "run.cs")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


def test_exported_paths_lose_their_mark(tmp_path):
    path = np.array([b">J1/imported/00009_a b.mrcs"] * COUNT)
    names = read(tmp_path, **{"blob/path": path}).star.particles["rlnImageName"]
    assert names[0] == "000001@J1/imported/00009_a b.mrcs"


def test_a_passthrough_joins_by_uid_and_the_main_file_wins(tmp_path):
    fields = layout(COUNT)
    order = np.array([4, 1, 5, 0, 2, 3])
    other = {name: each[order] for name, each in fields.items() if not name.startswith("alignments")}
    other["ctf/accel_kv"] = np.full(COUNT, 200, "f4")
    extra = {name: np.concatenate([each, each[:1]]) for name, each in other.items()}
    extra["uid"][-1] = 1
    path = write_cs(tmp_path / "pass.cs", extra)
    kept = {name: each for name, each in fields.items() if name in ("uid", "ctf/accel_kv") or "alignments" in name}
    main = write_cs(tmp_path / "main.cs", kept)
    joined = read_refinement(main, path)
    whole = read_refinement(write_cs(tmp_path / "whole.cs", fields))
    assert joined.star.particles.equals(whole.star.particles)
    assert (interpret(joined.star).ctf.voltage == 300e3).all()

    fewer = write_cs(tmp_path / "fewer.cs", {name: each[1:4] for name, each in other.items()})
    with pytest.raises(InputError, match=r"fewer\.cs: 3 of the 6 particles of .*main\.cs are not in it"):
        read_refinement(main, fewer)
    twice = write_cs(tmp_path / "twice.cs", {name: np.concatenate([each, each]) for name, each in other.items()})
    with pytest.raises(InputError, match="6 uids stand twice"):
        read_refinement(main, twice)


def test_a_passthrough_may_hold_the_poses(tmp_path):
    fields = layout(COUNT)
    main = {name: each for name, each in fields.items() if "alignments3D" not in name}
    poses = {name: each for name, each in fields.items() if "alignments3D" in name or name == "uid"}
    found = read_refinement(write_cs(tmp_path / "a.cs", main), write_cs(tmp_path / "b.cs", poses))
    whole = read_refinement(write_cs(tmp_path / "c.cs", fields))
    assert np.allclose(interpret(found.star).angles, interpret(whole.star).angles)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, data):
    path = write_cs(tmp_path / "fuzz.cs", layout(3))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path.write_bytes(content)
    try:
        refinement = read_refinement(path)
    except InputError as refusal:
        assert "\n" not in str(refusal)
    else:
        assert len(refinement) == len(refinement.star.particles) > 0
