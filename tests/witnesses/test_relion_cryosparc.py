"""The same particles as STAR, as .cs and as cryoDRGN has them: RELION makes the same images and a map of all."""

import pickle
import shutil
import subprocess

import numpy as np
import pytest
import torch

from gaussemble.io.mrc import open_stack, read_map, write_map
from gaussemble.io.refinement import read_refinement
from gaussemble.io.relion import interpret
from gaussemble.io.star import numbers, read_star
from gaussemble.physics.projection import mixture_to_map
from gaussemble.quantities import Map, Mixture
from made_cs import layout, logarithm, relion_matrix, write_cs
from made_particles import OPTICS, write_star_text

BOX, PIXEL, COUNT = 32, 3.0, 300

pytestmark = pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")


def run(folder, *command: str) -> None:
    """A program of RELION in a folder; its failure is ours."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def parameters() -> dict[str, np.ndarray]:
    """Views all over, shifts in Å, CTF."""
    rng = np.random.default_rng(3)
    tilt = np.rad2deg(np.arccos(rng.uniform(-0.999, 0.999, COUNT)))
    return {
        "rlnAngleRot": rng.uniform(-179, 179, COUNT),
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": rng.uniform(-179, 179, COUNT),
        "rlnOriginXAngst": rng.uniform(-6, 6, COUNT),
        "rlnOriginYAngst": rng.uniform(-6, 6, COUNT),
        "rlnDefocusU": rng.uniform(9000, 14000, COUNT),
        "rlnDefocusV": rng.uniform(7000, 9000, COUNT),
        "rlnDefocusAngle": rng.uniform(-90, 90, COUNT),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lopsided map, particles of it that RELION projects from a STAR file, and their twins in other formats."""
    folder = tmp_path_factory.mktemp("project")
    center = torch.tensor([[13.0, 3, -5], [-8, 10, 6], [2, -14, 8], [-4, -3, -13], [5, 8, 11]])
    mixture = Mixture(center, torch.tensor([5.0, 8, 6, 9, 4]), torch.full((5,), 4.5))
    write_map(folder / "map.mrc", Map(mixture_to_map(mixture, BOX, PIXEL), PIXEL))
    columns = parameters()
    table = {name: [f"{value:.6f}" for value in values] for name, values in columns.items()}
    optics = OPTICS | {"rlnImagePixelSize": [f"{PIXEL}"], "rlnImageSize": [f"{BOX}"]}
    table |= {"rlnOpticsGroup": ["1"] * COUNT, "rlnRandomSubset": [str(1 + i % 2) for i in range(COUNT)]}
    write_star_text(folder / "in.star", table, optics)
    project(folder, "in.star", "made")
    table["rlnImageName"] = [f"{i + 1}@made.mrcs" for i in range(COUNT)]
    write_star_text(folder / "in.star", table, optics)
    (folder / "J7/extract").mkdir(parents=True)
    shutil.copy(folder / "made.mrcs", folder / "J7/extract/stack.mrc")
    write_cs(folder / "J9/run.cs", twin(columns))
    matrices = np.stack([relion_matrix(*angles) for angles in euler(columns)])
    origin = np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], axis=1)
    (folder / "poses.pkl").write_bytes(pickle.dumps((matrices, origin / (BOX * PIXEL))))
    (folder / "ctf.pkl").write_bytes(pickle.dumps(ctf_table(columns)))
    return folder


def project(folder, star: str, out: str) -> None:
    """RELION's images of the map at the poses and CTFs of a STAR file."""
    run(folder, "relion_project", "--i", "map.mrc", "--o", out, "--ang", star, "--angpix", str(PIXEL), "--ctf")


def euler(columns: dict) -> np.ndarray:
    """(image, 3) degrees."""
    return np.stack([columns[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")], axis=1)


def twin(columns: dict) -> dict:
    """The .cs fields: rotation vectors of the transposed matrices, shifts in pixels of half of the size."""
    fields = layout(COUNT, box=BOX, pixel_size=PIXEL)
    vectors = [logarithm(relion_matrix(*angles).T) for angles in euler(columns)]
    shift = np.stack([columns["rlnOriginXAngst"], columns["rlnOriginYAngst"]], axis=1)
    return fields | {
        "alignments3D/pose": np.array(vectors, "f4"),
        "alignments3D/shift": (shift / (PIXEL / 2)).astype("f4"),
        "alignments3D/psize_A": np.full(COUNT, PIXEL / 2, "f4"),
        "alignments3D/split": (np.arange(COUNT) % 2).astype("u4"),
        "ctf/df1_A": columns["rlnDefocusU"].astype("f4"),
        "ctf/df2_A": columns["rlnDefocusV"].astype("f4"),
        "ctf/df_angle_rad": np.deg2rad(columns["rlnDefocusAngle"]).astype("f4"),
    }


def ctf_table(columns: dict) -> np.ndarray:
    """(image, 9) as cryoDRGN has it, of images of twice the box at half of the pixel size."""
    same = [np.full(COUNT, value) for value in (2 * BOX, PIXEL / 2, 300, 2.7, 0.1, 0)]
    defocus = [columns[f"rlnDefocus{name}"] for name in ("U", "V", "Angle")]
    return np.stack([*same[:2], *defocus, *same[2:]], axis=1)


def read(folder, kind: str):
    """The particles in one of the formats."""
    if kind == "cs":
        return read_refinement(folder / "J9/run.cs")
    return read_refinement(folder / "made.mrcs", None, folder / "poses.pkl", folder / "ctf.pkl")


@pytest.mark.parametrize("kind", ["cs", "cryodrgn"])
def test_the_twins_say_the_same(folder, kind):
    star, other = read_star(folder / "in.star"), read(folder, kind).star
    theirs, ours = interpret(star), interpret(other)
    angles = ours.angles - theirs.angles
    assert np.abs(np.angle(np.exp(1j * angles))).max() < 2e-5  # a pose is in float32, and tilts down to 2.6 degrees
    assert np.allclose(ours.shift, theirs.shift, atol=1e-5)
    for name in vars(ours.ctf):
        assert torch.allclose(getattr(ours.ctf, name), getattr(theirs.ctf, name), atol=1e-4), name
    if kind == "cs":
        assert np.array_equal(numbers(other, "rlnRandomSubset"), numbers(star, "rlnRandomSubset"))


@pytest.mark.parametrize("kind", ["cs", "cryodrgn"])
def test_relion_makes_the_same_images_of_the_twins(folder, kind, monkeypatch):
    monkeypatch.chdir(folder)
    read(folder, kind).write(folder / kind)
    project(folder, f"{kind}/particles.star", f"{kind}_made")
    ours, theirs = open_stack(folder / f"{kind}_made.mrcs"), open_stack(folder / "made.mrcs")
    error = np.linalg.norm(ours - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))
    assert error.max() < 1e-4
    # the nearest mistakes exceed this by far: the poses as they are, not transposed
    read(folder, kind).with_angles(-interpret(read(folder, kind).star).angles[:, ::-1]).write(folder / "wrong")
    project(folder, "wrong/particles.star", "wrong_made")
    wrong = open_stack(folder / "wrong_made.mrcs")
    assert np.median(np.linalg.norm(wrong - theirs, axis=(1, 2)) / np.linalg.norm(theirs, axis=(1, 2))) > 0.3


@pytest.mark.parametrize("kind", ["cs", "cryodrgn"])
def test_relion_reconstructs_from_what_we_write(folder, kind, monkeypatch):
    """Also from a stack that cryoSPARC calls .mrc, which RELION would take for a map."""
    monkeypatch.chdir(folder)
    read(folder, kind).rows(np.arange(0, COUNT, 2)).write(folder / kind)
    star = f"{kind}/particles.star"
    run(folder, "relion_reconstruct", "--i", star, "--o", f"{kind}.mrc", "--ctf", "--maxres", "9")
    made, true = read_map(folder / f"{kind}.mrc").voxels, read_map(folder / "map.mrc").voxels
    assert torch.corrcoef(torch.stack([made.flatten(), true.flatten()]))[0, 1] > 0.97
