"""What latents may and may not claim: a null is called null, a motion a motion, clusters clusters."""

import numpy as np
import pytest

from gaussemble.analysis.chance import Gain, best_point, deepest_valley, gain, judge, point_evidence
from gaussemble.analysis.deconvolution import Likelihoods, Populations


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
    assert verdict.valley < 0.1


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


def test_valleys():
    """Two unit normals at distance d: exp(-d²/8) x 2 over the peak where they are far apart."""
    pair = Populations(np.array([0.5, 0.5]), np.array([[-2.0], [2.0]]), np.ones((2, 1, 1)))
    assert deepest_valley(pair) == pytest.approx(2 * np.exp(-2) / (1 + np.exp(-8)), rel=1e-3)
    filled = Populations(np.full(3, 1 / 3), np.array([[-2.0], [0.0], [2.0]]), np.ones((3, 1, 1)))
    assert deepest_valley(filled) > 0.9
    assert deepest_valley(Populations(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))) == 1


def test_a_gain_knows_its_error():
    found = gain(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.mean == 2.5
    assert found.error == pytest.approx(np.sqrt(5 / 3) / 2)
    assert Gain(1.0, 0.1, 10).beyond_chance and not Gain(1.0, 0.5, 10).beyond_chance
    assert not Gain(0.005, 0.0001, 10).beyond_chance
    assert Gain(2.0, 1.0, 10).probability == pytest.approx(0.0228, abs=1e-4)
    assert Gain(0.0, 0.0, 10).probability == 1
