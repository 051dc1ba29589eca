"""Projection engines on one core: milliseconds an image for a loss and its gradients, beside the separable form.

    PYTHONPATH=workflow python tests/bench/projection.py [--quick]

Each row is a process of its own, so that its peak memory is its own. The loss is the whitened squared residual after a
CTF; gradients are those of centres, amplitudes, widths and rotations. Widths are 1.2 to 1.7 pixels.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from gaussemble.physics.projection import project
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture

BATCH, SECONDS = 32, 2.0


def problem(gaussians: int, box: int) -> tuple[Mixture, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of mixtures that fill a third of the box, rotations, CTFs and images."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(BATCH, gaussians, 3, generator=generator) * box / 10
    amplitude = 0.5 + torch.rand(BATCH, gaussians, generator=generator)
    width = 1.2 + 0.5 * torch.rand(BATCH, gaussians, generator=generator)
    transfer = torch.rand(BATCH, box, box // 2 + 1, generator=generator)
    image = torch.randn(BATCH, box, box // 2 + 1, generator=generator, dtype=torch.complex64)
    return Mixture(center, amplitude, width), random_rotations(BATCH, generator).float(), transfer, image


def measure(engine: Any, gaussians: int, box: int) -> dict[str, float]:
    """Best milliseconds an image, and the memory (MB) that the steps added."""
    torch.set_num_threads(1)
    small, views, _, _ = problem(32, 16)
    project(
        Mixture(*(part.requires_grad_() for part in (small.center, small.amplitude, small.width))),
        views,
        16,
        1.0,
        engine,
    ).abs().sum().backward()  # what loading and compiling take
    mixture, rotation, transfer, image = problem(gaussians, box)
    leaves = [part.requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width, rotation)]

    def step() -> None:
        predicted = transfer * project(Mixture(*leaves[:3]), leaves[3], box, 1.0, engine)
        (predicted - image).abs().square().sum().backward()
        for leaf in leaves:
            leaf.grad = None

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"milliseconds": 1e3 * best / BATCH, "megabytes": added / 1024}


def main() -> None:
    """Print the table, or one row's figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--row", nargs=3)
    arguments = parser.parse_args()
    if arguments.row:
        engine, gaussians, box = arguments.row
        print(json.dumps(measure(engine, int(gaussians), int(box))))
        return
    print(f"forward + backward, one core, batch {BATCH}, float32; ms an image, MB that the step added\n")
    print("| box | Gaussians | separable ms | spreading ms | ratio | separable MB | spreading MB |")
    print("|---|---|---|---|---|---|---|")
    for box in (64,) if arguments.quick else (64, 128):
        for gaussians in (1024,) if arguments.quick else (256, 1024, 2048, 4096):
            found = []
            for engine in ("separable", "auto"):
                command = [sys.executable, __file__, "--row", engine, str(gaussians), str(box)]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            slow, fast = found
            print(
                f"| {box} | {gaussians} | {slow['milliseconds']:.2f} | {fast['milliseconds']:.2f} | "
                f"{slow['milliseconds'] / fast['milliseconds']:.1f} | {slow['megabytes']:.0f} | "
                f"{fast['megabytes']:.0f} |"
            )


if __name__ == "__main__":
    main()
