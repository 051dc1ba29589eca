"""The marginal evidence against an integral over a grid of latents."""

import math

import pytest
import torch

from gaussemble.fit.evidence import log_evidence, log_likelihood
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
    found = log_evidence(model, batch, refine(model, batch, torch.zeros(8, 2), prior, 8), prior, 64)

    axis = torch.linspace(-3, 3, 31)
    step = float(axis[1] - axis[0])
    places = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        cost = torch.stack([objective(model, batch, place.expand(8, 2), prior) for place in places])
    normaliser = math.log(2 * math.pi) + 0.5 * float(torch.logdet(prior.covariance))
    exact = torch.logsumexp(-cost.double(), 0) + 2 * math.log(step) - normaliser
    assert torch.allclose(found.double(), exact, atol=0.1)


def test_a_prior_at_a_point_gives_the_likelihood_there(pieces):
    model, batch = pieces
    prior = Prior(torch.tensor([0.4, 0.1]), 1e-8 * torch.eye(2))
    narrow = Posterior(prior.mean.expand(8, 2), prior.covariance.expand(8, 2, 2))
    at_point = log_likelihood(model, batch, prior.mean)
    assert torch.allclose(log_evidence(model, batch, narrow, prior), at_point, atol=0.02)
    assert (log_likelihood(model, batch, None) - at_point).abs().max() > 0.1  # the neutral mixture is another
