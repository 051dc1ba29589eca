"""The stage particles with files of cryoSPARC and cryoDRGN: the store of the STAR file, and the user's own format."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussemble.io.refinement import read_refinement
from gaussemble.io.star import read_star, write_star
from gaussemble.io.store import open_store
from gaussemble.prepare.particles import Options, particles
from made_cs import exponential, layout, write_cs
from made_particles import write_mrc

COUNT, BOX, PIXEL = 12, 16, 1.5


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The folder of a cryoSPARC project, entered: a job's .cs and the stack of another job."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "J7/extract").mkdir(parents=True)
    images = np.random.default_rng(0).standard_normal((COUNT, BOX, BOX)).astype("f4")
    write_mrc(tmp_path / "J7/extract/stack.mrc", images, PIXEL)
    write_cs(tmp_path / "J9/run.cs", layout(COUNT))
    return tmp_path


def store(star: Path, out: str, split: str = "full", *, options: dict | None = None, **files: Path):
    """What the stage stores."""
    chosen = Options(**({"contrast": "white"} | (options or {})))
    particles(star=star, out=Path(out), split=split, options=chosen, **files)  # type: ignore[arg-type]
    return open_store(Path(out))


def same(one, other) -> None:
    """Two stores hold the same particles."""
    assert torch.allclose(one.particles.rotation, other.particles.rotation, atol=1e-6)
    assert torch.allclose(one.particles.shift, other.particles.shift, atol=1e-4)
    assert torch.allclose(one.particles.ctf.defocus_u, other.particles.ctf.defocus_u)
    assert torch.allclose(one.particles.ctf.defocus_angle, other.particles.ctf.defocus_angle, atol=1e-6)
    assert torch.equal(one.read(slice(None)), other.read(slice(None)))


def test_a_cs_file_makes_the_store_of_its_star_file(project):
    write_star(project / "twin.star", read_refinement(Path("J9/run.cs")).star)
    same(store(Path("J9/run.cs"), "cs"), store(Path("twin.star"), "star"))


def test_halves_are_cryosparcs_and_their_cs_files_share_no_uid(project):
    before, halves = np.load("J9/run.cs"), {}
    for split, number in (("even", 0), ("odd", 1)):
        found = store(Path("J9/run.cs"), split, split, options={"halves": "random_subset"})
        halves[split] = np.load(f"{split}/particles.cs")
        expected = np.flatnonzero(before["alignments3D/split"] == number)
        assert np.array_equal(halves[split], before[expected])
        assert found.particles.particle.tolist() == expected.tolist()
    assert not set(halves["even"]["uid"]) & set(halves["odd"]["uid"])


def test_copies_have_the_poses_of_the_store(project):
    found = store(Path("J9/run.cs"), "c2", options={"expand": "C2"})
    table = np.load("c2/particles.cs")
    assert len(table) == len(found) == 2 * COUNT
    assert len(set(table["uid"])) == 2 * COUNT
    poses = np.stack([exponential(each.astype(float)).T for each in table["alignments3D/pose"]])
    assert np.allclose(poses, found.particles.rotation.numpy(), atol=1e-5)
    star = read_refinement(Path("c2/particles.star")).star
    assert star.particles["rlnImageName"].iloc[1].endswith("1@J7/extract/stack.mrc:mrcs")


def test_cryodrgns_files_make_the_same_store(project):
    fields, star = layout(COUNT), store(Path("J9/run.cs"), "cs")
    rotation = np.stack([exponential(each.astype(float)).T for each in fields["alignments3D/pose"]])
    Path("poses.pkl").write_bytes(pickle.dumps((rotation, fields["alignments3D/shift"] / BOX)))
    columns = ["df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "phase_shift_rad"]
    contrast = [fields[f"ctf/{name}"] for name in columns]
    contrast[2] = np.rad2deg(contrast[2])
    table = np.stack([np.full(COUNT, BOX), np.full(COUNT, PIXEL), *contrast], axis=1)
    Path("ctf.pkl").write_bytes(pickle.dumps(table))
    files = {"poses": Path("poses.pkl"), "ctf_file": Path("ctf.pkl")}
    same(store(Path("J7/extract/stack.mrc"), "drgn", **files), star)
    store(Path("J7/extract/stack.mrc"), "odd", "odd", **files)
    assert pickle.loads(Path("odd/indices.pkl").read_bytes()).tolist() == list(range(1, COUNT, 2))
    assert len(read_star(Path("odd/particles.star"))) == COUNT // 2
