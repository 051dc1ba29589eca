"""The GPU's benchmark takes its step on any device, and ends where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import problem, separable, spread, step

ROOT = Path(__file__).resolve().parents[2]


def test_both_engines_take_the_same_step():
    """Gradients of all leaves; white residuals, so the widths' feel the cut most, and frequencies below Nyquist's."""
    results = []
    for engine in (spread, separable):
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
