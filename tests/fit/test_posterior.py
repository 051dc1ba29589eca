"""Latents refined against a decoder whose truth is known: optimum, derivative, calibration."""

import math

import pytest
import torch

from gaussemble.fit.band import open_band
from gaussemble.fit.posterior import jacobian, objective, refine
from gaussemble.io.store import open_store, write_store
from gaussemble.model.heterogeneity import DeformableMixture, single_design
from gaussemble.quantities import Mixture
from tiny import PIXEL, images, molecule, particles, white_noise_power

NOISE = 0.15


class ArmModel(DeformableMixture):
    """z1 lifts the arm by 10 Å along y, z2 changes its amplitude: a decoder that is known exactly."""

    def decode(self, latent, active=None):
        arm = (torch.arange(24) >= 16).float()
        center = self.center + 10 * latent[:, :1, None] * arm[:, None] * torch.tensor([0.0, 1.0, 0.0])
        amplitude = self.neutral_amplitude * (1 + 0.3 * latent[:, 1:] * arm)
        return Mixture(center, amplitude, self.neutral_width.expand(len(latent), -1))


@pytest.fixture
def problem(tmp_path, generator):
    """Model, particles and their true latents, drawn from the prior N(0, 1)."""
    design = single_design(
        gaussians=24, latent_dim=2, inputs=4, hidden=4, layers=1, dropout=0.0, length=10.0, field=192.0
    )
    model = ArmModel(design, molecule()).eval()
    truth = torch.randn(300, 2, generator=generator)
    known = particles(300, generator)
    with torch.no_grad():
        write_store(tmp_path, known, images(known, model.decode(truth), NOISE, generator), PIXEL)
    batch = open_band(open_store(tmp_path), white_noise_power(NOISE), 14.0).batch(torch.arange(300))
    return model, batch, truth


def test_jacobian_is_the_difference_quotient(problem):
    model, batch, truth = problem
    slopes = jacobian(model, batch, truth)
    for axis, step in enumerate(1e-2 * torch.eye(2)):
        change = batch.predict(model.decode(truth + step)) - batch.predict(model.decode(truth - step))
        quotient = change.flatten(start_dim=1) / 2e-2
        assert (slopes[:, axis] - quotient).norm() / quotient.norm() < 1e-3


def test_refinement_goes_to_the_optimum_and_never_uphill(problem):
    model, batch, truth = problem
    start = truth + 0.3
    refined, _ = refine(model, batch, start, prior=1.0, steps=4)
    value = objective(model, batch, refined, 1.0)
    assert (value <= objective(model, batch, start, 1.0)).all()
    for step in 0.05 * torch.cat([torch.eye(2), -torch.eye(2)]):
        lower = objective(model, batch, refined + step, 1.0) < value - 1e-2
        assert lower.float().mean() < 0.05  # Gauss-Newton may stop short where the arm points along the view


def test_truth_lies_within_the_stated_deviations_as_often_as_it_should(problem):
    model, batch, truth = problem
    refined, deviation = refine(model, batch, truth.clone(), prior=1.0, steps=4)
    score = (refined - truth) / deviation
    within = (score.abs() < 1).float().mean()
    # 600 draws: the binomial standard error of 0.683 is 0.019; three of them, and a little for the approximation
    assert float(within) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.07)
    assert float((score.abs() < 2).float().mean()) == pytest.approx(0.954, abs=0.04)
    # a deviation that merely repeats the prior's would be calibrated too, but useless
    assert float(deviation[:, 0].median()) < 0.5
