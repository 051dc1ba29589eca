"""Decoders that are known exactly, particles of theirs, and whether posteriors keep their word."""

import math
from pathlib import Path

import pytest
import torch

from gaussemble.fit.band import Band, Batch, open_band
from gaussemble.fit.posterior import Posterior, Prior
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.quantities import Mixture
from tiny import PIXEL, images, molecule, particles, white_noise_power

SIZES = {"gaussians": 24, "inputs": 4, "hidden": 8, "layers": 2, "dropout": 0.0, "length": 10.0, "field": 192.0}
ARM = (torch.arange(24) >= 16).float()


class ArmModel(DeformableMixture):
    """z1 lifts the arm by 10 Å along y, z2 changes its amplitude: a decoder that is known exactly."""

    def decode(self, latent, active=None):
        center = self.center + 10 * latent[:, :1, None] * ARM[:, None] * torch.tensor([0.0, 1.0, 0.0])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent[:, 1:] * ARM)
        return Mixture(center, amplitude, self.neutral_width.expand(len(latent), -1))


class FadingModel(DeformableMixture):
    """z1 changes the arm's amplitude, z2 the core's: images are linear in the latents, posteriors exactly normal."""

    def decode(self, latent, active=None):
        parts = torch.stack([ARM, 1 - ARM])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent @ parts)
        return Mixture(self.center.expand(len(latent), -1, -1), amplitude, self.neutral_width.expand(len(latent), -1))


def make_band(
    folder: Path, generator, truth, noise: float, kind: type[DeformableMixture] = ArmModel, rotation=None
) -> tuple[DeformableMixture, Band]:
    """A model and the particles that it would make of some latents, with white noise."""
    model = kind(single_design(latent_dim=2, **SIZES), molecule()).eval()
    known = particles(len(truth), generator)
    if rotation is not None:
        known.rotation.copy_(rotation)
    with torch.no_grad():
        write_store(folder, known, images(known, model.decode(truth), noise, generator), PIXEL)
    return model, open_band(open_store(folder), white_noise_power(noise), 14.0)


def make_problem(folder: Path, *given, **changes) -> tuple[DeformableMixture, Batch]:
    """The same with all particles in one batch."""
    model, band = make_band(folder, *given, **changes)
    return model, band.batch(torch.arange(len(band)))


def spread_latents(count: int, generator) -> tuple[torch.Tensor, Prior]:
    """Latents of mean 0.5 and deviations 0.8 and 0.6, and the distribution that they are from."""
    deviation = torch.tensor([0.8, 0.6])
    truth = 0.5 + torch.randn(count, 2, generator=generator) * deviation
    return truth, Prior(torch.full((2,), 0.5), torch.diag(deviation.square()))


def assert_binomial(hits: torch.Tensor, probability: float, slack: float = 0.0) -> None:
    """As often as a probability says, within three standard errors."""
    error = math.sqrt(probability * (1 - probability) / hits.numel())
    assert float(hits.float().mean()) == pytest.approx(probability, abs=3 * error + slack)


def assert_calibrated(posterior: Posterior, truth: torch.Tensor, slack: float = 0.0) -> None:
    """Each latent within 1 and 2 of its own deviations, and all together within chi-squared's median."""
    score = (posterior.latent - truth) / posterior.deviation
    for axis in range(2):
        assert_binomial(score[:, axis].abs() < 1, math.erf(1 / math.sqrt(2)), slack)
        assert_binomial(score[:, axis].abs() < 2, math.erf(2 / math.sqrt(2)), slack)
    offset = posterior.latent - truth
    squared = (offset * torch.linalg.solve(posterior.covariance, offset)).sum(-1)
    assert_binomial(squared < 2 * math.log(2), 0.5, slack)  # the covariance's off-diagonal too
