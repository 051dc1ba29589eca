"""The marginal evidence against integrals: over a grid of latents, and of normal distributions."""

import math

import pytest
import torch

from gaussemble.fit.evidence import SAMPLES, framed_draws, log_evidence, log_integral, log_likelihood
from gaussemble.fit.posterior import Posterior, Prior, objective, refine
from made_training import make_model, make_study_of
from tiny import make_store


@pytest.fixture
def pieces(tmp_path, generator):
    """A model with weights that bend the molecule, and eight particles."""
    make_store(tmp_path, 8, 0.3, generator)
    study = make_study_of(tmp_path)
    model = make_model(study)
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), study.band.batch(torch.arange(8))


def test_evidence_is_the_integral_of_the_likelihood_over_the_prior(pieces):
    model, batch = pieces
    prior = Prior(torch.tensor([0.3, -0.2]), torch.tensor([[0.5, 0.1], [0.1, 0.3]]))
    found = log_evidence(model, batch, refine(model, batch, torch.zeros(8, 2), prior, 8), prior)

    axis = torch.linspace(-3, 3, 31)
    step = float(axis[1] - axis[0])
    places = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        cost = torch.stack([objective(model, batch, place.expand(8, 2), prior) for place in places])
    normaliser = math.log(2 * math.pi) + 0.5 * float(torch.logdet(prior.covariance))
    exact = torch.logsumexp(-cost.double(), 0) + 2 * math.log(step) - normaliser
    assert torch.allclose(found.double(), exact, atol=0.02)
    assert abs(float((found - exact).mean())) < 0.01


@pytest.mark.parametrize(
    ("dimensions", "low", "high", "error"),
    [(1, 0.9, 1.1, 0.004), (4, 0.9, 1.1, 0.004), (10, 0.9, 1.1, 0.004), (2, 1.33, 1.33, 0.012), (4, 1.33, 1.33, 0.012),
     (4, 0.67, 0.67, 0.012), (4, 0.67, 1.33, 0.012)],
)  # fmt: skip
def test_the_integral_is_right_where_posteriors_are_not_the_normal_ones(dimensions, low, high, error):
    """True posteriors are normal, turned, displaced, of deviations `low` to `high` times the ones that are given."""
    count, generator = 1500, torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(count, dimensions, dimensions, generator=generator))[0]
    deviation = low + (high - low) * torch.rand(count, dimensions, generator=generator)
    covariance = torch.einsum("nij,nj,nkj->nik", axes, deviation.square(), axes)
    middle = (0.1 if high < 1.2 and low > 0.8 else 0.3) * torch.randn(count, dimensions, generator=generator)
    inverse = torch.linalg.inv(covariance)

    def cost(place: torch.Tensor) -> torch.Tensor:  # minus the log of a normal distribution, whose integral is 1
        offset = place - middle
        width = 0.5 * torch.logdet(covariance) + 0.5 * dimensions * math.log(2 * math.pi)
        return 0.5 * torch.einsum("ni,nij,nj->n", offset, inverse, offset) + width

    given = Posterior(torch.zeros(count, dimensions), torch.eye(dimensions).expand(count, dimensions, dimensions))
    assert abs(float(log_integral(cost, given, SAMPLES).mean())) < error


def test_draws_have_the_lengths_and_the_covariance_of_a_normal_distribution():
    drawn = framed_draws(64, 4, 1)
    assert drawn.shape == (64, 4)
    assert torch.allclose(drawn.sum(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(drawn.T @ drawn / 64, torch.eye(4), atol=0.3)
    squared = drawn.square().sum(1)
    assert float(squared.mean()) == pytest.approx(4, rel=0.05)
    assert float(squared.var()) == pytest.approx(8, rel=0.25)  # of chi squared; 2.5 where only the covariance is exact


def test_a_prior_at_a_point_gives_the_likelihood_there(pieces):
    model, batch = pieces
    prior = Prior(torch.tensor([0.4, 0.1]), 1e-8 * torch.eye(2))
    narrow = Posterior(prior.mean.expand(8, 2), prior.covariance.expand(8, 2, 2))
    at_point = log_likelihood(model, batch, prior.mean)
    assert torch.allclose(log_evidence(model, batch, narrow, prior), at_point, atol=0.02)
    assert (log_likelihood(model, batch, None) - at_point).abs().max() > 0.1  # the neutral mixture is another
