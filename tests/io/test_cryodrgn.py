"""cryoDRGN's files: poses, CTF, stacks, and that nothing in a pickle is executed."""

import builtins
import os
import pickle
import re
import resource
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaussemble.errors import InputError
from gaussemble.io.cryodrgn import index_pickle, read_index, read_pickle
from gaussemble.io.refinement import read_refinement
from gaussemble.io.relion import interpret
from gaussemble.physics.rotations import euler_to_matrix
from made_cs import layout, relion_matrix, write_cs
from made_particles import rows, write_mrc, write_star_text

COUNT = 7
ANGLES = np.array([[10, 20, 30], [-75, 95, 140], [160, 40, -20], [0, 0, 65], [33, 180, 0], [0, 71, 0], [1, 2, 3.0]])
ROTATION = np.stack([relion_matrix(*angles) for angles in ANGLES])
FRACTION = np.random.default_rng(0).uniform(-0.2, 0.2, (COUNT, 2))
CTF = np.array([[32, 0.75, 15000 + 100 * i, 14000 - i, 20.0 * i - 60, 300, 2.7, 0.1, 30.0] for i in range(COUNT)])


@pytest.fixture
def folder(tmp_path):
    """A stack of 16 pixels, poses.pkl and ctf.pkl of a box of 32 pixels of 0.75 Å."""
    write_mrc(tmp_path / "particles.mrcs", np.zeros((COUNT, 16, 16), "f4"), 9.9)
    save(tmp_path / "poses.pkl", (ROTATION.astype("f4"), FRACTION))
    save(tmp_path / "ctf.pkl", CTF.astype("f4"))
    return tmp_path


def save(path, value, protocol: int = 4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def refused(function, *arguments) -> str:
    """The one line."""
    with pytest.raises(InputError) as refusal:
        function(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def check(star) -> None:
    """Poses, shifts and CTF as they were made."""
    found = interpret(star)
    assert np.abs(euler_to_matrix(torch.from_numpy(found.angles)).numpy() - ROTATION).max() < 1e-6
    assert np.allclose(found.shift, FRACTION * 32 * 0.75, atol=1e-5)
    assert np.allclose(found.ctf.defocus_u, CTF[:, 2])
    assert np.allclose(found.ctf.defocus_v, CTF[:, 3])
    assert np.allclose(np.rad2deg(found.ctf.defocus_angle.numpy()), CTF[:, 4], atol=1e-4)
    assert np.allclose(np.rad2deg(found.ctf.phase_shift.numpy()), 30, atol=1e-4)
    assert (found.ctf.voltage == 300e3).all()
    assert (found.ctf.amplitude_contrast == np.float32(0.1)).all()


def test_the_rotation_is_relions():
    """Turning four signs of Rz(psi) Ry Rz(rot), as cryoDRGN does it, is a change of axes that leads to RELION's."""

    def about_z(angle):
        return relion_matrix(-angle, 0, 0)

    for (rot, tilt, psi), expected in zip(ANGLES, ROTATION, strict=True):
        product = about_z(psi) @ relion_matrix(0, tilt, 0) @ about_z(rot)
        product[[0, 1, 1, 2], [1, 0, 2, 1]] *= -1
        assert np.allclose(product, expected)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_arrays_come_back_from_every_protocol(tmp_path, protocol, dtype):
    wide = np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3))
    found = read_pickle(save(tmp_path / "a.pkl", (wide, [np.arange(3), 2.5], None), protocol))
    assert np.array_equal(found[0], wide)
    assert np.array_equal(found[1][0], [0, 1, 2])
    assert found[1][1] == 2.5


def test_a_stack_with_poses_and_ctf(folder):
    refinement = read_refinement(folder / "particles.mrcs", None, folder / "poses.pkl", folder / "ctf.pkl")
    check(refinement.star)
    assert refinement.star.optics is not None
    assert refinement.star.optics["rlnImagePixelSize"].tolist() == [1.5]  # 32 x 0.75 Å in 16 pixels
    assert refinement.star.optics["rlnImageSize"].tolist() == [16]
    assert refinement.star.particles["rlnImageName"][6] == f"000007@{folder / 'particles.mrcs'}"


def test_a_list_of_stacks_is_one_after_the_other(folder):
    (folder / "stacks").mkdir()
    write_mrc(folder / "stacks" / "a.mrcs", np.zeros((4, 16, 16), "f4"))
    write_mrc(folder / "stacks" / "b.mrcs", np.zeros((3, 16, 16), "f4"))
    (folder / "list.txt").write_text("stacks/b.mrcs\nstacks/a.mrcs\n\n")
    star = read_refinement(folder / "list.txt", None, folder / "poses.pkl", folder / "ctf.pkl").star
    check(star)
    assert star.particles["rlnImageName"].tolist()[2:4] == ["000003@stacks/b.mrcs", "000001@stacks/a.mrcs"]
    (folder / "list.txt").write_text("a.mrcs\nb.mrcs\n")
    assert "give datadir" in refused(read_refinement, folder / "list.txt", None, folder / "poses.pkl")
    found = read_refinement(folder / "list.txt", poses=folder / "poses.pkl", datadir=folder / "stacks")
    assert len(found) == COUNT


def test_poses_and_ctf_win_over_those_of_a_star_file(folder):
    path = write_star_text(folder / "run.star", rows(COUNT, rlnOriginX="9", rlnOriginY="9", rlnMicrographName="m.mrc"))
    both = read_refinement(path, None, folder / "poses.pkl", folder / "ctf.pkl")
    check(both.star)
    assert (both.star.particles["rlnMicrographName"] == "m.mrc").all()
    poses = interpret(read_refinement(path, poses=folder / "poses.pkl").star)
    assert np.allclose(poses.shift, FRACTION * 16 * 1.5, atol=1e-5)
    assert np.allclose(poses.ctf.defocus_u, 10000 + np.arange(COUNT))
    contrast = interpret(read_refinement(path, ctf=folder / "ctf.pkl").star)
    assert np.allclose(np.rad2deg(contrast.angles[:, 0]), 10.0 * np.arange(COUNT))
    assert np.allclose(contrast.ctf.defocus_u, CTF[:, 2])


def test_poses_and_ctf_of_a_cs_file_that_has_none(folder):
    fields = {name: each for name, each in layout(COUNT).items() if name.startswith(("uid", "blob"))}
    path = write_cs(folder / "run.cs", fields)
    check(read_refinement(path, None, folder / "poses.pkl", folder / "ctf.pkl").star)


def test_poses_without_translations_are_centred(folder):
    for value in (ROTATION, (ROTATION,)):
        found = read_refinement(folder / "particles.mrcs", None, save(folder / "r.pkl", value), folder / "ctf.pkl")
        assert (interpret(found.star).shift == 0).all()
        assert "centred" in found.assumed[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((ROTATION[:3], FRACTION[:3]), "3 particles, but .* has 7"),
        ((ROTATION, FRACTION * 100), "fractions of the box"),
        ((ROTATION, FRACTION[:, :1]), r"shape \(7, 3, 3\) and \(7, 1\)"),
        ((2 * ROTATION, FRACTION), r"row 0 \(from 0\): the matrix is no rotation"),
        ((-ROTATION, FRACTION), "no rotation"),
        ((ROTATION * np.nan, FRACTION), "not finite"),
        ((ROTATION, FRACTION, FRACTION), "expected poses.pkl"),
        (ROTATION[0], "expected rotations"),
        ([1, 2], "expected poses.pkl"),
        ("text", "str in the place of an array"),
        ({"rotation": 1}, "dict in the place of an array"),
    ],
)
def test_other_poses_are_refused_in_one_line(folder, value, words):
    path = save(folder / "poses.pkl", value)
    line = refused(read_refinement, folder / "particles.mrcs", None, path, folder / "ctf.pkl")
    assert str(path) in line
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (CTF[:, :8], "(n, 9)"),
        (CTF[:2], "2 particles"),
        (0 * CTF, "not positive"),
        (CTF + np.inf, "not finite"),
        ((CTF, CTF), "a tuple; expected"),
    ],
)
def test_another_ctf_is_refused_in_one_line(folder, value, words):
    path = save(folder / "ctf.pkl", value)
    assert words in refused(read_refinement, folder / "particles.mrcs", None, folder / "poses.pkl", path)


def test_images_alone_have_no_poses(folder):
    assert "poses.pkl" in refused(read_refinement, folder / "particles.mrcs")
    star = {name: each for name, each in layout(1).items()}
    path = write_cs(folder / "run.cs", star)
    star_path = write_star_text(folder / "run.star", rows(COUNT))
    assert "a passthrough joins a .cs" in refused(read_refinement, star_path, path)


def test_a_subset_is_written_as_cryodrgn_reads_it(folder):
    refinement = read_refinement(folder / "particles.mrcs", None, folder / "poses.pkl", folder / "ctf.pkl")
    refinement.rows([5, 1, 2]).rows([0, 2]).write(folder / "out")
    index = pickle.loads((folder / "out" / "indices.pkl").read_bytes())
    assert index.dtype == np.int64
    assert index.tolist() == [1, 5]
    assert read_index(folder / "out" / "indices.pkl").tolist() == [1, 5]
    assert b"numpy._core" not in index_pickle(index), "NumPy 1 does not know this name"


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(target: str) -> dict[str, bytes]:
    """Pickles that would make a file of that name, or run code, if anything of them ran."""
    make = f"open({target!r}, 'w')"
    inner = np.empty(1, object)
    inner[0] = Calls(os.system, f"touch {target}")
    evaluate = pickle.dumps(Calls(eval, make))
    array = pickle.dumps(np.arange(3.0), protocol=2)
    return {
        "os.system": pickle.dumps(Calls(os.system, f"touch {target}")),
        "builtins.eval": evaluate,
        "builtins.eval within a tuple of arrays": pickle.dumps((np.eye(3), Calls(eval, make))),
        "builtins.exec": pickle.dumps(Calls(exec, make)),
        "builtins.getattr": pickle.dumps(Calls(getattr, "a", "join")),
        "an array of objects": pickle.dumps(inner),
        "an array of objects, protocol 2": pickle.dumps(inner, protocol=2),
        "old names": b"c__builtin__\neval\n(S'" + make.replace("'", '"').encode() + b"'\ntR.",
        "instance": b"(S'touch " + target.encode() + b"'\nios\nsystem\n.",
        "numpy.load": b"cnumpy\nload\n(S'x'\ntR.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bcore.system\x93.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Px\n.",
        "a function whose defaults are changed": b"cnumpy\ndtype\n}S'__name__'\nS'x'\nsb.",
        "state of another object": b"\x80\x02]}b.",
        "text of endless length": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        "a subclass": pickle.dumps(np.rec.array([(1, 2.0)])),
        "a truncated array": array[:-20],
        "a shape that does not fit": array.replace(b"K\x03\x85", b"K\x07\x85"),
        "a name of two lines": b"\x80\x04\x8c\x05nu\nmp\x8c\x01x\x93.",
        "nothing": b"",
        "text": b"data_particles\n",
    }


@pytest.mark.parametrize("name", attacks("x"))
def test_nothing_in_a_pickle_runs(tmp_path, name, monkeypatch):
    path, target = tmp_path / "poses.pkl", tmp_path / "exploded"
    path.write_bytes(attacks(str(target))[name])
    for module, function in ((os, "system"), (builtins, "eval"), (builtins, "exec")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("it ran"))
    before = set(sys.modules)
    line = refused(read_pickle, path)
    assert str(path) in line
    assert not target.exists()
    assert set(sys.modules) == before, "names are not even imported"


def test_a_damaged_number_does_not_fill_the_memory(tmp_path):
    """The interpreter in C makes room for two thousand million objects before it stores the one of that number."""
    path = tmp_path / "poses.pkl"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b"x.")
    refused(read_pickle, path)
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert read_pickle(path) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16, "64 MiB"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_pickle_is_read_or_refused_in_one_line(tmp_path, data):
    content = bytearray(pickle.dumps((ROTATION, FRACTION), protocol=data.draw(st.integers(0, 5))))
    header = [*range(min(300, len(content))), *range(len(content) - 200, len(content))]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(header))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.pkl"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        read_pickle(path)
    except InputError as refusal:
        assert "\n" not in str(refusal)
