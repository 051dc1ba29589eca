"""One reader for all programs; subsets in the user's own format."""

import numpy as np
import pytest

from gaussemble.errors import InputError
from gaussemble.io.images import open_images
from gaussemble.io.refinement import read_refinement, read_written
from gaussemble.io.relion import interpret
from gaussemble.io.star import read_star
from made_cs import exponential, layout, relion_matrix, write_cs
from made_particles import rows, write_mrc, write_star_text

COUNT = 6


@pytest.fixture
def cs(tmp_path):
    return write_cs(tmp_path / "J9" / "run.cs", layout(COUNT))


def test_a_star_file_is_read_as_it_is(tmp_path):
    path = write_star_text(tmp_path / "in.star", rows(4))
    refinement = read_refinement(path)
    assert refinement.star.particles.equals(read_star(path).particles)
    assert (refinement.cs, refinement.row, refinement.sign, refinement.assumed) == (None, None, None, [])
    (tmp_path / "out").mkdir()
    for name in ("particles.cs", "indices.pkl"):
        (tmp_path / "out" / name).touch()
    refinement.rows([True, False, True, False]).write(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["particles.star"], "what was there is of no use"
    assert read_star(tmp_path / "out/particles.star").particles["rlnDefocusU"].tolist() == ["10000", "10002"]


def test_a_cs_file_is_known_by_its_content(tmp_path, cs):
    (tmp_path / "particles.dat").write_bytes(cs.read_bytes())
    assert len(read_refinement(tmp_path / "particles.dat")) == COUNT
    with pytest.raises(InputError, match="no such file"):
        read_refinement(tmp_path / "nowhere.cs")


def test_a_subset_keeps_rows_fields_and_type_of_the_cs_file(tmp_path, cs):
    read_refinement(cs).rows([4, 1]).rows(np.array([True, True])).write(tmp_path / "out")
    before, after = np.load(cs), np.load(tmp_path / "out/particles.cs")
    assert after.dtype == before.dtype
    assert np.array_equal(after, before[[1, 4]])
    again = read_written(tmp_path / "out")
    assert again.cs is not None
    assert np.array_equal(again.cs.table, after)
    # through the STAR file's six digits
    assert np.allclose(interpret(again.star).angles, interpret(read_refinement(cs).rows([1, 4]).star).angles, atol=2e-8)


def test_a_passthrough_joins_the_copies_of_a_particle(tmp_path):
    fields = layout(COUNT)
    main = write_cs(tmp_path / "main.cs", {name: fields[name] for name in fields if not name.startswith("blob/")})
    rest = {name: fields[name][::-1] for name in fields if name == "uid" or name.startswith("blob/")}
    passthrough = write_cs(tmp_path / "passthrough.cs", rest)
    read_refinement(main, passthrough).rows([1, 1, 4, 4]).write(tmp_path / "out")
    again = read_refinement(tmp_path / "out/particles.cs", passthrough)
    assert again.star.particles["rlnImageName"].str[:6].tolist() == ["000002", "000002", "000005", "000005"]
    stranger = {name: values[2:] for name, values in rest.items()}  # without the last two of the reversed: rows 5, 4
    with pytest.raises(InputError, match=r"2 of the 4 particles of .* are not in it"):
        read_refinement(tmp_path / "out/particles.cs", write_cs(tmp_path / "other.cs", stranger))


def test_copies_of_a_particle_are_told_apart_as_by_symmetry_expansion(tmp_path, cs):
    whole = read_refinement(cs)
    angles = np.deg2rad([[10.0, 20, 30], [40, 50, 60], [-70, 80, 90], [0, 0, 10], [1, 2, 3], [5, 180, 0]])
    copies = whole.rows(np.repeat([0, 3, 5], 2)).with_angles(angles)
    copies.write(tmp_path / "out")
    before, after = np.load(cs), np.load(tmp_path / "out/particles.cs")
    assert len(set(after["uid"])) == 6
    assert np.array_equal(after["uid"][::2], before["uid"][[0, 3, 5]])
    assert np.array_equal(after["sym_expand/src_uid"], before["uid"][[0, 0, 3, 3, 5, 5]])
    assert after["sym_expand/idx"].tolist() == [0, 1, 0, 1, 0, 1]
    assert after["blob/idx"].tolist() == [0, 0, 3, 3, 5, 5]
    for row, expected in zip(after, angles, strict=True):
        matrix = exponential(row["alignments3D/pose"].astype(float)).T
        assert np.abs(matrix - relion_matrix(*np.rad2deg(expected))).max() < 1e-6
    assert np.allclose(np.rad2deg(angles), copies.star.particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]])
    assert np.allclose(
        interpret(read_refinement(tmp_path / "out/particles.cs").star).shift, interpret(copies.star).shift
    )
    # a subset of the copies keeps their names
    copies.rows([1, 2]).write(tmp_path / "fewer")
    assert np.array_equal(np.load(tmp_path / "fewer/particles.cs"), after[[1, 2]])


def test_angles_of_a_star_file_are_replaced(tmp_path):
    refinement = read_refinement(write_star_text(tmp_path / "in.star", rows(2)))
    copies = refinement.rows([0, 0, 1]).with_angles(np.deg2rad([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]))
    assert np.allclose(interpret(copies.star).angles, np.deg2rad([[1, 2, 3], [4, 5, 6], [7, 8, 9]]))
    assert copies.star.particles["rlnDefocusU"].tolist() == ["10000", "10000", "10001"]


def test_files_of_different_lengths_do_not_belong_together(tmp_path, cs):
    read_refinement(cs).write(tmp_path / "out")
    write_cs(tmp_path / "out/particles.cs", layout(2))
    with pytest.raises(InputError, match=r"particles\.cs: 2 rows, .*particles\.star has 6"):
        read_written(tmp_path / "out")


@pytest.mark.parametrize("path", ["J7/extract/stack.mrc", ">J9/stack.mrc"])
def test_images_are_found_from_the_projects_folder_or_beside_an_export(tmp_path, path, monkeypatch):
    """A job's paths start from the folder of the project, which is above the .cs; an export's from that of the .cs."""
    place = tmp_path / "project" / path.lstrip(">")
    place.parent.mkdir(parents=True)
    images = np.random.default_rng(0).standard_normal((COUNT, 16, 16)).astype("f4")
    write_mrc(place, images)
    cs = write_cs(tmp_path / "project/J9/run.cs", layout(COUNT, path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = open_images(read_refinement(cs).star)
    assert np.array_equal(found.read(np.array([4, 2])), images[[4, 2]])
