"""What latents may and may not claim: a null is called null, a motion a motion."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from gaussemble.analysis.chance import (
    Gain,
    Likelihoods,
    Normal,
    best_point,
    fit_normal,
    gain,
    likelihoods,
    log_evidence,
    plausible,
    point_evidence,
    variation,
)


def seen_at(true: np.ndarray, random: np.random.Generator, precision: float = 4.0) -> Likelihoods:
    """Particles at known latents, seen with precisions between 0 and twice the given one, as views differ."""
    count, latent = true.shape
    each = 2 * precision * random.random(count)
    estimate = true + random.normal(size=true.shape) / np.sqrt(each)[:, None]
    return Likelihoods(each[:, None, None] * np.eye(latent), each[:, None] * estimate)


def held(count: int) -> np.ndarray:
    return np.arange(count) % 5 == 0


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_is_called_null(seed):
    """Four times, where a false alarm has the probability 0.001."""
    random = np.random.default_rng(seed)
    found = variation(seen_at(np.tile([0.3, -0.2], (1000, 1)), random), held(1000))
    assert not found.beyond_chance
    assert found.sentence.startswith("nothing varies")


def test_a_motion_varies():
    random = np.random.default_rng(1)
    true = np.stack([np.linspace(-2, 2, 2000), np.zeros(2000)], axis=1)
    found = variation(seen_at(random.permutation(true), random), held(2000))
    assert found.beyond_chance
    assert found.particles == 400


def test_the_gain_of_a_normal_spread_is_its_known_expectation():
    """Precision p, truth N(0, v): the expected log ratio to a point at 0 is (p v - log(1 + p v)) / 2 nats an axis."""
    random = np.random.default_rng(3)
    precision, variance, count = 3.0, 0.8, 60_000
    estimate = random.normal(size=(count, 1)) * np.sqrt(variance + 1 / precision)
    seen = Likelihoods(np.full((count, 1, 1), precision), precision * estimate)
    expected = (precision * variance - np.log(1 + precision * variance)) / 2
    found = variation(seen, np.arange(count) % 2 == 0)
    assert found.mean == pytest.approx(expected, abs=4 * found.error)
    assert found.error < 0.02 * expected


def test_a_point_is_that_of_least_squares():
    random = np.random.default_rng(4)
    seen = seen_at(np.tile([1.0, -2.0], (5000, 1)), random)
    point = best_point(seen)
    assert np.allclose(point, [1.0, -2.0], atol=0.05)
    value = point_evidence(seen, point).sum()
    for step in np.eye(2):
        assert value > point_evidence(seen, point + 0.01 * step).sum()
    assert np.allclose(point_evidence(seen, np.zeros(2)), 0)


def test_a_gain_knows_its_error():
    found = gain(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mean == 2.5
    assert found.error == pytest.approx(np.sqrt(5 / 3) / 2)
    assert Gain(1.0, 0.1, 10).beyond_chance and not Gain(1.0, 0.5, 10).beyond_chance
    assert not Gain(0.005, 0.0001, 10).beyond_chance
    assert Gain(2.0, 1.0, 10).probability == pytest.approx(0.0228, abs=1e-4)
    assert Gain(0.0, 0.0, 10).probability == 1


def test_copies_of_a_particle_are_no_further_evidence():
    """Four copies with one gain each: the error is that of the particles, not half of it."""
    values = np.random.default_rng(6).normal(size=500)
    once, copied = gain(values), gain(np.repeat(values, 4), np.repeat(np.arange(500), 4))
    assert copied.error == pytest.approx(once.error)
    assert copied.mean == pytest.approx(once.mean)
    assert copied.particles == 500
    others = np.random.default_rng(7).normal(size=2000)  # copies that have nothing in common are as good as particles
    assert gain(others, np.repeat(np.arange(500), 4)).error == pytest.approx(gain(others).error, rel=0.1)


def test_plausible_pulls_stay_and_endless_ones_are_cut():
    """In a prior that is neither round nor at 0; along an axis without precision nothing may pull."""
    random = np.random.default_rng(5)
    mean, covariance = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 0.4]])
    true = random.multivariate_normal(mean, covariance, size=500)
    seen = seen_at(true, random)
    same = plausible(seen, mean, covariance)
    assert np.allclose(same.precision, seen.precision)
    changed = ~np.isclose(same.information, seen.information, atol=1e-6).all(1)
    assert changed.mean() < 0.02  # what lies beyond three standard errors, or four of the prior
    endless = Likelihoods(np.diag([3.0, 0.0])[None], np.array([[3.0, 5.0]]))
    cut = plausible(endless, np.zeros(2), np.eye(2))
    assert np.allclose(cut.information, [[3.0, 0.0]])
    assert np.allclose(cut.precision, endless.precision)


def seen_through(random: np.random.Generator, true: np.ndarray, wide: float, narrow: float) -> Likelihoods:
    """Estimates of errors that differ from particle to particle in direction, as precision and information."""
    angle = 2 * np.pi * random.random(len(true))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    error = turn @ np.diag([wide**2, narrow**2]) @ turn.mT
    estimate = true + np.einsum("nij,nj->ni", np.linalg.cholesky(error), random.normal(size=true.shape))
    precision = np.linalg.inv(error)
    return Likelihoods(precision, np.einsum("nij,nj->ni", precision, estimate))


def test_the_evidence_is_the_normal_integral():
    """Of an estimate e with error C from N(m, V): N(e; m, C + V), over N(e; 0, C) for a particle at 0."""
    random = np.random.default_rng(8)
    mean, spread, estimate = random.normal(size=2), np.array([[1.0, 0.3], [0.3, 0.5]]), random.normal(size=(1, 2))
    error = np.array([[0.4, 0.1], [0.1, 0.8]])
    precision = np.linalg.inv(error)[None]
    found = log_evidence(Likelihoods(precision, estimate @ precision[0]), Normal(mean, spread))
    density = [multivariate_normal(*one).logpdf(estimate[0]) for one in ((mean, error + spread), (np.zeros(2), error))]
    assert found[0] == pytest.approx(density[0] - density[1])


def test_the_spread_is_that_of_the_truth_not_of_the_estimates():
    random = np.random.default_rng(9)
    spread = np.array([[1.0, 0.6], [0.6, 0.5]])
    true = random.multivariate_normal([2.0, -1.0], spread, size=20_000)
    found = fit_normal(seen_through(random, true, 3.0, 0.5))
    # standard errors: about 2 % of the variances with these errors
    assert np.allclose(found.covariance, spread, atol=0.1)
    assert np.allclose(found.mean, [2.0, -1.0], atol=0.05)


def test_an_axis_that_no_view_shows_does_no_harm():
    random = np.random.default_rng(10)
    true = random.normal([1.0, 0.0], [2.0, 0.0], size=(2000, 2))
    seen = seen_through(random, true, 0.5, 0.5)
    found = fit_normal(Likelihoods(seen.precision * np.array([[1, 0], [0, 0]]), seen.information * np.array([1, 0])))
    assert found.mean[0] == pytest.approx(1.0, abs=0.15)  # standard error 0.046
    assert found.covariance[0, 0] == pytest.approx(4.0, rel=0.12)  # standard error 3 %
    nothing = Likelihoods(np.zeros((50, 2, 2)), np.zeros((50, 2)))
    assert np.isfinite(log_evidence(nothing, fit_normal(nothing))).all()


def test_a_prior_is_taken_out_again():
    """Also of particles about which nothing is known: their posterior is the prior."""
    precision = np.array([[[4.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    information = np.array([[1.0, -2.0], [0.0, 0.0]])
    prior, middle = np.array([[0.5, 0.2], [0.2, 0.8]]), np.array([0.3, -0.4])
    covariance = np.linalg.inv(precision + np.linalg.inv(prior))
    latent = np.einsum("nij,nj->ni", covariance, information + np.linalg.inv(prior) @ middle)
    found = likelihoods(latent, covariance, middle, prior)
    assert np.allclose(found.precision, precision, atol=1e-12)
    assert np.allclose(found.information, information, atol=1e-12)
