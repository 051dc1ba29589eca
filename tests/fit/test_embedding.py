"""Every encoder finds a tiny molecule's bend, and what a trained model says of its own error is true."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from gaussemble.fit.embedding import embed
from gaussemble.fit.posterior import observability
from gaussemble.fit.rounds import Round
from gaussemble.fit.training import TrainingOptions, train
from gaussemble.io.posteriors import read_posteriors
from made_heterogeneity import make_inputs, run
from made_training import RESOLUTION, make_model, make_study_of
from tiny import make_store


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folders that the stage reads, and the true angles."""
    folder = tmp_path_factory.mktemp("study")
    return folder, make_inputs(folder, 400, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("encoder", ["gradient", "image", "both"])
def test_every_encoder_finds_the_bend(study, encoder):
    """Landmarks at its latents, without rounds of the population or refinement."""
    folder, angle = study
    table = run(folder, encoder, encoder=encoder, epochs=20, em_rounds=0, refine_steps=0)
    found = cross_val_predict(KNeighborsRegressor(10), table[["z1", "z2"]].to_numpy(), angle.numpy())
    # cross-validated, so that chance is below zero; what is left is a mean error of 7 degrees of +-34
    assert r2_score(angle.numpy(), found) > 0.85


def test_the_stage_writes_the_posteriors_of_its_table(study):
    folder, _ = study
    table = run(folder, "files", epochs=2)
    posteriors = read_posteriors(folder / "files/posterior.npz")
    assert table["particle"].tolist() == posteriors.particle.tolist()
    np.testing.assert_allclose(table[["z1", "z2"]], posteriors.latent, atol=1e-5)
    np.testing.assert_allclose(
        table[["sd1", "sd2"]] ** 2, posteriors.covariance.diagonal(axis1=1, axis2=2), rtol=1e-3, atol=1e-6
    )
    assert table["observability"].between(0, 1).all()
    again = run(folder, "again", epochs=2)
    pd.testing.assert_frame_equal(table, again)


def test_stated_deviations_hold_with_a_trained_decoder(tmp_path, generator):
    """At SNR 0.05: the bend, as a smooth function of the latents' means, is missed by as much as they say.

    A posterior mean's error is independent of the mean, so the function, fitted to the truth, is not flattened.
    """
    _, angle = make_store(tmp_path, 1600, 0.2, generator)
    study = make_study_of(tmp_path, 0.2)
    model, options = make_model(study, landmarks=512), TrainingOptions(batch=32, learning_rate=4e-3)
    rounds = [Round(None, 6.0, 2 * RESOLUTION, None, "fixed"), Round(None, 8.0, None, None, "fixed")]
    train(model, study, options, rounds, None)
    posterior, prior, _ = embed(model, study, 3, 0)

    def powers(z):
        return torch.stack([z[:, 0] ** i * z[:, 1] ** j for i in range(5) for j in range(5 - i)], dim=1)

    weight = torch.linalg.lstsq(powers(posterior.latent), angle[:, None]).solution
    latent = posterior.latent.clone().requires_grad_()
    (slope,) = torch.autograd.grad((powers(latent) @ weight).sum(), latent)
    deviation = torch.einsum("ij, ijk, ik -> i", slope, posterior.covariance, slope).sqrt()
    error = (powers(posterior.latent) @ weight)[:, 0] - angle
    score = error.abs() / deviation
    # three standard errors of 1600 particles are 3.5 %; as much again for a decoder that is an estimate
    assert float((score < 1).float().mean()) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.07)
    assert float((score < 2).float().mean()) == pytest.approx(math.erf(2 / math.sqrt(2)), abs=0.04)
    # and each particle's own: those who state more miss by more, and the views that show less are these
    assert float(torch.corrcoef(torch.stack([error.abs(), deviation]))[0, 1]) > 0.25
    seen = observability(posterior, prior)
    best, worst = seen > seen.quantile(0.75), seen < seen.quantile(0.25)
    assert float(error[best].square().mean()) < 0.6 * float(error[worst].square().mean())
    assert float(error.var() / angle.var()) < 0.3
