"""RELION reads the STAR files and the stacks that we write."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussemble.io.mrc import open_stack, write_stack
from gaussemble.io.star import read_star
from gaussemble.prepare.particles import Options, particles
from made_particles import OPTICS, rows, write_mrc, write_star_text

pytestmark = pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not installed")


def _run(*command: str, folder: Path) -> str:
    """What a program of RELION prints; its failure is ours."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("old", [False, True])
def test_relion_reads_the_particles_of_a_split(tmp_path, old, monkeypatch):
    columns: dict = {"rlnRandomSubset": "1"}
    if old:
        columns |= {"rlnOpticsGroup": None, "rlnVoltage": "300", "rlnSphericalAberration": "2.7"}
        columns |= {"rlnAmplitudeContrast": "0.1", "rlnMagnification": "40000", "rlnDetectorPixelSize": "6"}
        columns |= {"rlnOriginXAngst": None, "rlnOriginYAngst": None, "rlnOriginX": "1", "rlnOriginY": "2"}
    (tmp_path / "job").mkdir()
    noise = np.random.default_rng(0).standard_normal((7, 16, 16)).astype("f4")
    write_mrc(tmp_path / "job" / "stack.mrcs", noise, 1.5)
    star = write_star_text(tmp_path / "job" / "in.star", rows(7, **columns), None if old else OPTICS)
    monkeypatch.chdir(tmp_path)
    particles(star=star, out=tmp_path / "odd", split="odd", options=Options())

    _run("relion_star_handler", "--i", "odd/particles.star", "--o", "out.star", "--remove_column", "x", folder=tmp_path)
    again = read_star(tmp_path / "out.star")
    assert len(again) == 3
    assert again.particles["rlnDefocusU"].astype(float).tolist() == [10001, 10003, 10005]
    shift = again.particles["rlnOriginXAngst"].astype(float)
    assert np.allclose(shift, 1.5 if old else [0.5, 1.5, 2.5])
    # image names resolve from where the user started: RELION finds the images there
    _run("relion_stack_create", "--i", "odd/particles.star", "--o", "stacked", folder=tmp_path)
    assert np.allclose(open_stack(tmp_path / "stacked.mrcs"), noise[1::2], atol=1e-6)


def test_relion_reads_our_stacks(tmp_path, generator):
    images = torch.randn(4, 12, 12, generator=generator)
    write_stack(tmp_path / "ours.mrcs", images, 2.5)
    _run("relion_image_handler", "--i", "ours.mrcs", "--o", "theirs.mrcs", "--multiply_constant", "2", folder=tmp_path)
    assert np.allclose(open_stack(tmp_path / "theirs.mrcs"), 2 * images, atol=1e-6)
