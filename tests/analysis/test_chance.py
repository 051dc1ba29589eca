"""What latents may and may not claim: a null is called null, a motion a motion, clusters clusters."""

import numpy as np
import pytest

from gaussemble.analysis.chance import (
    Gain,
    best_point,
    gain,
    judge,
    plausible,
    point_evidence,
    valley,
    weakest_link,
)
from gaussemble.analysis.deconvolution import Likelihoods


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
    verdict = judge(seen_at(np.tile([0.3, -0.2], (1000, 1)), random), held(1000), 3)
    assert not verdict.varies and not verdict.clustered
    assert verdict.sentence.startswith("nothing varies")


def test_a_motion_varies_without_clusters():
    """A uniform motion has no gaps; three populations that share it run into each other."""
    random = np.random.default_rng(1)
    true = np.stack([np.linspace(-2, 2, 2000), np.zeros(2000)], axis=1)
    verdict = judge(seen_at(random.permutation(true), random), held(2000), 3)
    assert verdict.varies and not verdict.clustered
    assert verdict.valley > 0.5


def test_classes_are_clusters():
    random = np.random.default_rng(2)
    true = np.array([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]])[random.integers(0, 3, 2000)]
    verdict = judge(seen_at(true, random), held(2000), 3)
    assert verdict.clustered
    assert verdict.valley < 0.5  # the latents are seen through their errors, which fill it a little


def test_the_gain_of_a_normal_spread_is_its_known_expectation():
    """Precision p, truth N(0, v): the expected log ratio to a point at 0 is (p v - log(1 + p v)) / 2 nats an axis."""
    random = np.random.default_rng(3)
    precision, variance, count = 3.0, 0.8, 60_000
    estimate = random.normal(size=(count, 1)) * np.sqrt(variance + 1 / precision)
    seen = Likelihoods(np.full((count, 1, 1), precision), precision * estimate)
    expected = (precision * variance - np.log(1 + precision * variance)) / 2
    found = judge(seen, np.arange(count) % 2 == 0, 1).variation
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


def test_a_valley_is_that_of_the_density():
    """Two unit normals at distance 4: 2 exp(-2) of the peak; smoothed by a third of a deviation, a little more."""
    random = np.random.default_rng(6)
    first, second = (random.normal([way, 0], 1, size=(20_000, 2)) for way in (-2, 2))
    wide = 1 + (4 / 12) ** 2
    expected = 2 * np.exp(-2 / wide) / (1 + np.exp(-8 / wide))
    assert valley(first, second) == pytest.approx(expected, rel=0.1)
    whole = random.uniform(-1, 1, (20_000, 1))
    assert valley(whole[whole[:, 0] < 0.1], whole[whole[:, 0] >= 0.1]) > 0.9
    assert valley(first[:10], second) == 1


def test_the_ends_of_a_curve_are_not_apart():
    """A half circle in three parts; without the middle the ends are apart."""
    random = np.random.default_rng(7)
    angle = random.uniform(0, np.pi, 6000)
    curve = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * random.normal(size=(6000, 2))
    label = (3 * angle / np.pi).astype(int)
    assert weakest_link(curve, label, 3) > 0.6  # the ways along a curve are dented where they bend
    ends = label != 1
    assert weakest_link(curve[ends], label[ends] // 2, 2) < 0.1
    assert weakest_link(curve, np.zeros(6000, int), 1) == 1


def test_a_gain_knows_its_error():
    found = gain(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mean == 2.5
    assert found.error == pytest.approx(np.sqrt(5 / 3) / 2)
    assert Gain(1.0, 0.1, 10).beyond_chance and not Gain(1.0, 0.5, 10).beyond_chance
    assert not Gain(0.005, 0.0001, 10).beyond_chance
    assert Gain(2.0, 1.0, 10).probability == pytest.approx(0.0228, abs=1e-4)
    assert Gain(0.0, 0.0, 10).probability == 1


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
