"""Scores of latents against a known truth: known values, chance, and what must not matter."""

import numpy as np
import pytest

from gaussemble.analysis.recovery import (
    angle_error,
    angle_of,
    balanced_accuracy,
    on_circle,
    predicted_by_neighbours,
    probe,
    rand_index,
    ring_angle_error,
    variance_explained,
)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_neighbours_find_what_the_latent_holds(random):
    truth = random.uniform(-1, 1, (2000, 1))
    bent = np.concatenate([truth**3 + truth, np.cos(3 * truth)], axis=1)
    assert variance_explained(truth, predicted_by_neighbours(bent, truth)) > 0.995
    # noise of a third of the variance: at best 3/4
    noisy = truth + truth.std() / 3**0.5 * random.normal(size=truth.shape)
    assert variance_explained(truth, predicted_by_neighbours(noisy, truth)) == pytest.approx(0.75, abs=0.04)


def test_an_independent_latent_explains_nothing(random):
    truth = random.normal(size=(2000, 1))
    score = variance_explained(truth, predicted_by_neighbours(random.normal(size=(2000, 2)), truth))
    assert score == pytest.approx(-1 / 32, abs=0.03)  # the mean of 32 unrelated values adds a 32nd of the variance


def test_variance_explained_sums_over_targets():
    """Å count alike along all axes: an axis that hardly varies hardly matters."""
    truth = np.array([[0.0, 0.0], [10.0, 1.0]])
    assert variance_explained(truth, np.array([[0.0, 1.0], [10.0, 0.0]])) == pytest.approx(1 - 2 / 50.5)


def test_angles_go_round():
    degrees = np.array([0.0, 90.0, 359.0])
    assert np.allclose(angle_of(on_circle(degrees)), degrees)
    assert angle_error(np.array([359.0, 10.0]), np.array([1.0, 350.0])) == pytest.approx(11)
    assert angle_error(np.zeros(3600), np.arange(3600) / 10) == pytest.approx(90)


@pytest.mark.parametrize("way", [1, -1])
def test_a_ring_is_read_however_it_lies(random, way):
    """Turned, mirrored, stretched, moved, in a plane of four dimensions."""
    truth = random.uniform(0, 360, 3000)
    plane = on_circle(way * truth + 77) * [1.0, 2.0]
    axes = np.linalg.qr(random.normal(size=(4, 4)))[0][:2]
    latent = plane @ axes + 3
    assert ring_angle_error(latent, truth) < 2
    assert ring_angle_error(random.permutation(latent), truth) == pytest.approx(90, abs=5)


def test_a_line_is_no_ring(random):
    truth = random.uniform(0, 360, 3000)
    line = np.stack([truth, 1e-3 * random.normal(size=3000)], axis=1)
    assert ring_angle_error(line, truth) > 30


def test_partitions(random):
    truth = random.integers(0, 3, 3000)
    assert rand_index(truth, 5 - truth) == 1
    assert abs(rand_index(truth, random.permutation(truth))) < 0.01
    # Hubert & Arabie's index of {0,0,1,1} and {0,0,1,2}: (1 - 1/3) / (3/2 - 1/3)
    assert rand_index(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(4 / 7)


def test_probe_counts_classes_alike(random):
    label = (random.random(2000) < 0.1).astype(int)
    latent = random.normal(size=(2000, 2)) + 8 * label[:, None]
    assert probe(latent, label) > 0.99
    assert probe(random.normal(size=(2000, 2)), label) == pytest.approx(0.5, abs=0.06)
    assert balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])) == 0.5
