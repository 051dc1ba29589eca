"""Mixtures fitted through each particle's own error."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from gaussemble.analysis.deconvolution import (
    Likelihoods,
    Populations,
    bayesian_information,
    deconvolve,
    likelihoods,
    log_evidence,
    memberships,
    posterior_means,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(4)


def seen_through(random: np.random.Generator, true: np.ndarray, wide: float, narrow: float) -> Likelihoods:
    """Estimates of errors that differ from particle to particle in size and direction, as precision and information."""
    angle = 2 * np.pi * random.random(len(true))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    error = turn @ np.diag([wide**2, narrow**2]) @ turn.mT
    estimate = true + np.einsum("nij,nj->ni", np.linalg.cholesky(error), random.normal(size=true.shape))
    precision = np.linalg.inv(error)
    return Likelihoods(precision, np.einsum("nij,nj->ni", precision, estimate))


def test_the_evidence_is_the_normal_integral(random):
    """Of an estimate e with error C from N(m, V): N(e; m, C + V), over N(e; 0, C) for a particle at 0."""
    mean, spread, estimate = random.normal(size=(2, 2)), np.empty((2, 2, 2)), random.normal(size=(1, 2))
    spread[:] = [[[1.0, 0.3], [0.3, 0.5]], [[0.2, -0.1], [-0.1, 0.9]]]
    error = np.array([[0.4, 0.1], [0.1, 0.8]])
    precision = np.linalg.inv(error)[None]
    found = log_evidence(
        Likelihoods(precision, estimate @ precision[0]), Populations(np.array([0.3, 0.7]), mean, spread)
    )
    density = sum(
        share * multivariate_normal(one, error + wide).pdf(estimate[0])
        for share, one, wide in zip([0.3, 0.7], mean, spread, strict=True)
    )
    assert found[0] == pytest.approx(np.log(density / multivariate_normal(np.zeros(2), error).pdf(estimate[0])))


def test_the_spread_is_that_of_the_truth_not_of_the_estimates(random):
    spread = np.array([[1.0, 0.6], [0.6, 0.5]])
    true = random.multivariate_normal([2.0, -1.0], spread, size=20_000)
    found = deconvolve(seen_through(random, true, 3.0, 0.5), 1)
    # standard errors: about 2 % of the variances with these errors
    assert np.allclose(found.covariance[0], spread, atol=0.1)
    assert np.allclose(found.mean[0], [2.0, -1.0], atol=0.05)


def test_without_errors_it_is_an_ordinary_mixture(random):
    true = np.concatenate([random.normal([-2, 0], 0.5, (300, 2)), random.normal([2, 1], [0.3, 0.9], (700, 2))])
    precise = Likelihoods(np.tile(1e9 * np.eye(2), (1000, 1, 1)), 1e9 * true)
    found, expected = deconvolve(precise, 2), GaussianMixture(2, random_state=0).fit(true)
    order, other = np.argsort(found.share), np.argsort(expected.weights_)
    assert np.allclose(found.share[order], expected.weights_[other], atol=1e-3)
    assert np.allclose(found.mean[order], expected.means_[other], atol=1e-2)
    assert np.allclose(found.covariance[order], expected.covariances_[other], atol=1e-2)


def test_groups_are_told_apart_as_well_as_they_can_be(random):
    """Three narrow groups behind errors longer than their distances in a direction of each particle's own."""
    group = random.choice(3, 4000, p=[0.5, 0.3, 0.2])
    centers = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.7]])
    true = centers[group] + 0.1 * random.normal(size=(4000, 2))
    seen = seen_through(random, true, 3.0, 0.4)
    best = Populations(np.array([0.5, 0.3, 0.2]), centers, np.tile(0.01 * np.eye(2), (3, 1, 1)))
    found = memberships(seen, deconvolve(seen, 3)).argmax(1)
    limit = adjusted_rand_score(group, memberships(seen, best).argmax(1))
    assert adjusted_rand_score(group, found) > 0.97 * limit
    assert limit < 0.9  # it is a test of the errors, not of an easy case


def test_the_right_number_has_the_best_criterion(random):
    group = random.choice(2, 3000)
    true = np.array([[0.0, 0.0], [2.5, 0.0]])[group] + 0.3 * random.normal(size=(3000, 2))
    seen = seen_through(random, true, 1.5, 0.6)
    values = {number: bayesian_information(seen, deconvolve(seen, number)) for number in (1, 2, 3)}
    assert min(values, key=values.__getitem__) == 2
    one = seen_through(random, random.normal(size=(3000, 2)), 1.5, 0.6)
    assert bayesian_information(one, deconvolve(one, 1)) < bayesian_information(one, deconvolve(one, 2))


def test_a_prior_is_taken_out_again(random):
    """Also of particles about which nothing is known: their posterior is the prior."""
    precision = np.array([[[4.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    information = np.array([[1.0, -2.0], [0.0, 0.0]])
    prior = np.array([[0.5, 0.2], [0.2, 0.8]])
    middle = np.array([0.3, -0.4])
    covariance = np.linalg.inv(precision + np.linalg.inv(prior))
    latent = np.einsum("nij,nj->ni", covariance, information + np.linalg.inv(prior) @ middle)
    found = likelihoods(latent, covariance, middle, prior)
    assert np.allclose(found.precision, precision, atol=1e-12)
    assert np.allclose(found.information, information, atol=1e-12)
    again = posterior_means(found, Populations(np.ones(1), middle[None], prior[None]))
    assert np.allclose(again, latent)


def test_an_axis_that_no_view_shows_does_no_harm(random):
    true = random.normal([1.0, 0.0], [2.0, 0.0], size=(2000, 2))
    seen = seen_through(random, true, 0.5, 0.5)
    blind = Likelihoods(seen.precision * np.array([[1, 0], [0, 0]]), seen.information * np.array([1, 0]))
    found = deconvolve(blind, 1)
    assert found.mean[0, 0] == pytest.approx(1.0, abs=0.15)  # standard error 0.046
    assert found.covariance[0, 0, 0] == pytest.approx(4.0, rel=0.12)  # standard error 3 %
    nothing = Likelihoods(np.zeros((50, 2, 2)), np.zeros((50, 2)))
    assert np.isfinite(log_evidence(nothing, deconvolve(nothing, 2))).all()
