"""A tiny molecule and particles of it, made in memory: what the tests of fitting share."""

import math

import torch

from gaussemble.io.store import ImageStore, open_store, write_store
from gaussemble.physics import ctf
from gaussemble.physics.fourier import to_real
from gaussemble.physics.projection import project, shift_phases
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import ContrastTransfer, Mixture, Particles

BOX, PIXEL = 32, 6.0


def molecule() -> Mixture:
    """A lopsided core of 16 Gaussians and an arm of 8 that reaches out along x; 60 Å across, 6 Å wide each."""
    generator = torch.Generator().manual_seed(3)
    core = 12 * torch.randn(16, 3, generator=generator)
    arm = torch.stack([torch.linspace(24, 52, 8), 4 * torch.randn(8, generator=generator), torch.zeros(8)], dim=-1)
    return Mixture(torch.cat([core, arm]), 0.5 + torch.rand(24, generator=generator), torch.full((24,), 6.0))


def bent(mixture: Mixture, angle: torch.Tensor) -> Mixture:
    """Each image's own mixture: the arm (the last 8 Gaussians) turned about z by `angle` (image,) radians."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=-1)
    center = mixture.center.expand(len(angle), -1, -1).clone()
    center[:, 16:] = center[:, 16:] @ rows.reshape(-1, 3, 3).mT
    return Mixture(center, mixture.amplitude.expand(len(angle), -1), mixture.width.expand(len(angle), -1))


def particles(count: int, generator: torch.Generator) -> Particles:
    """Random views, shifts of a pixel, defocus with astigmatism; two optics groups."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    transfer = ContrastTransfer(
        defocus_u=uniform(8000, 20000),
        defocus_v=uniform(8000, 20000),
        defocus_angle=uniform(0, math.pi),
        voltage=torch.full((count,), 300e3),
        spherical_aberration=torch.full((count,), 2.7e7),
        amplitude_contrast=torch.full((count,), 0.1),
        phase_shift=torch.zeros(count),
        b_factor=torch.zeros(count),
        scale=torch.ones(count),
    )
    shift = PIXEL * torch.randn(count, 2, generator=generator)
    rotation = random_rotations(count, generator).float()
    return Particles(torch.arange(count) * 3 + 1, rotation, shift, transfer, torch.arange(count) % 2)


def images(known: Particles, mixture: Mixture, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Real-space images with white noise of a standard deviation."""
    transform = project(mixture, known.rotation, BOX, PIXEL) * shift_phases(known.shift, BOX, PIXEL)
    clean = to_real(transform * ctf.evaluate(known.ctf, BOX, PIXEL), BOX)
    return clean + noise * torch.randn(clean.shape, generator=generator)


def make_store(folder, count: int, noise: float, generator: torch.Generator) -> tuple[ImageStore, torch.Tensor]:
    """An image store of bent molecules and the angles (image,) in radians, uniform in +-0.6."""
    known = particles(count, generator)
    angle = 1.2 * torch.rand(count, generator=generator) - 0.6
    write_store(folder, known, images(known, bent(molecule(), angle), noise, generator), PIXEL)
    return open_store(folder), angle


def white_noise_power(noise: float, groups: int = 2) -> torch.Tensor:
    """E|F|² in each ring of white noise of a standard deviation."""
    return torch.full((groups, BOX // 2 + 1), noise**2 * BOX**2)
