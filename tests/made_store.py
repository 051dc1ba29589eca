"""A small image store of a known mixture, and the files of an analysis beside it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from gaussemble.io.store import write_store
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import ContrastTransfer, Mixture, Particles
from made_particles import rows, write_star_text

BOX, PIXEL = 32, 5.0


@dataclass(frozen=True)
class Made:
    """What a test may compare with."""

    folder: Path
    mixture: Mixture
    absent: torch.Tensor  # (image,) True where the last Gaussian is missing
    noise: float  # standard deviation of a pixel


def lopsided() -> Mixture:
    """No symmetry; Gaussians of 1.4 voxels; the last two are a domain at x = 36 Å that may be absent."""
    center = torch.tensor(
        [
            [-18.0, 12, 10],
            [-2, -20, 14],
            [-12, -6, -24],
            [6, 14, 20],
            [0, 0, 0],
            [-14, 20, -6],
            [30, 4, -4],
            [40, 10, 2],
        ]
    )
    return Mixture(center, torch.tensor([60.0, 80, 70, 50, 90, 60, 70, 70]), torch.full((8,), 7.0))


def make_particles(count: int, generator: torch.Generator, first: int = 0, step: int = 1) -> Particles:
    """Random views, shifts and defocus; particle numbers `first`, `first + step` ...; two optics groups."""

    def same(value: float) -> torch.Tensor:
        return torch.full((count,), value)

    defocus = 12000 + 10000 * torch.rand(count, generator=generator)
    ctf = ContrastTransfer(
        defocus, defocus - 400, same(0.6), same(300e3), same(2.7e7), same(0.1), same(0.0), same(0.0), same(1.0)
    )
    shift = 4 * torch.randn(count, 2, generator=generator)
    rotation = random_rotations(count, generator).float()
    group = (torch.arange(count) >= 2 * count // 3).long()
    return Particles(first + step * torch.arange(count), rotation, shift, ctf, group)


def make_store(folder: Path, generator: torch.Generator, count: int = 900, snr: float = 0.5, **changes) -> Made:
    """Write a store with particles.star: a third of the particles lack the domain.

    `changes`: sign (of the images), absent (a mask of one's own), first and step (of the particle numbers).
    """
    particles = make_particles(count, generator, changes.get("first", 0), changes.get("step", 1))
    absent = changes.get("absent", torch.arange(count) % 3 == 0)
    whole = lopsided()
    lacking = Mixture(whole.center[:6], whole.amplitude[:6], whole.width[:6])
    transform = torch.empty(count, BOX, BOX // 2 + 1, dtype=torch.complex64)
    for mixture, chosen in ((whole, ~absent), (lacking, absent)):
        if chosen.any():
            transform[chosen] = project(mixture, particles.rotation[chosen], BOX, PIXEL)
    transform = transform * evaluate(particles.ctf, BOX, PIXEL) * shift_phases(particles.shift, BOX, PIXEL)
    images = to_real(transform, BOX)
    noise = float(images.std()) / snr**0.5
    images = changes.get("sign", 1) * (images + noise * torch.randn(images.shape, generator=generator))
    write_store(folder, particles, images, PIXEL)
    write_star_text(folder / "particles.star", rows(count, rlnMicrographName=[f"mic{i}.mrc" for i in range(count)]))
    return Made(folder, whole, absent, noise)
