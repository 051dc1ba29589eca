"""The spreading that the GPU's benchmark compares is right, and the benchmark ends where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import problem, scatter, separable, step
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("box", [48, 49])
@pytest.mark.parametrize("widths", [(0.4, 0.6), (1.2, 1.7), (2.5, 3.5)])
def test_scatter_is_projection(generator, box, widths):
    """Grids finer, equal and coarser than the box; some Gaussians lie beyond it. 2e-5 each for aliasing and the cut."""
    center = torch.randn(3, 60, 3, generator=generator, dtype=torch.float64) * box / 4
    amplitude = 0.5 + torch.rand(3, 60, generator=generator, dtype=torch.float64)
    width = widths[0] + (widths[1] - widths[0]) * torch.rand(3, 60, generator=generator, dtype=torch.float64)
    mixture, rotation = Mixture(2.0 * center, amplitude, 2.0 * width), random_rotations(3, generator)
    exact = project(mixture, rotation, box, 2.0, "separable")
    for kind, limit in ((torch.float64, 4e-5), (torch.float32, 4.2e-5)):
        error = (scatter(mixture.to(kind), rotation, box, 2.0) - exact).abs()
        if box % 2 == 0:  # its Nyquist stands for two frequencies
            error[:, box // 2], error[:, :, box // 2] = 0, 0
        assert float((error.amax((1, 2)) / amplitude.sum(-1)).max()) < limit


def test_its_gradients_are_those_of_projection():
    """Of all leaves; white residuals, so the widths' feel the cut most, as in the package's spreading."""
    results = []
    for engine in (scatter, separable):
        leaves, transfer, image = problem(3, 64, 32, "cpu")
        inside = torch.ones_like(transfer)
        inside[:, 16], inside[:, :, 16] = 0, 0
        step(engine, leaves, transfer * inside, image)
        results.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*results, strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < 5e-3


def test_make_finds_it():
    done = subprocess.run(["make", "-n", "bench", "BENCH=gpu"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tests/bench/gpu.py\n" in done.stdout  # make within make says where it is, too


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    command = [sys.executable, ROOT / "tests/bench/gpu.py"]
    paths = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
    assert done.stdout == "no GPU\n"
