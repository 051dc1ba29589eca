"""Who is near whom: the same, part of it, and nothing at all."""

import numpy as np
import pytest

from gaussemble.analysis.neighbourhoods import information_imbalance, neighbour_ranks, neighbourhood_similarity


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_similarity(random):
    points = random.normal(size=(600, 2))
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert neighbourhood_similarity(points, 3 * points @ turn + 1, 20) == 1
    found = neighbourhood_similarity(points, random.permutation(points), 60)
    assert found == pytest.approx(60 / 599, abs=0.01)


def test_similarity_of_a_known_case():
    """On a line, the order reversed in one half: neighbours across the middle change."""
    line = np.array([[0.0], [1.0], [2.1], [10.0]])
    other = np.array([[0.0], [10.0], [10.9], [12.0]])
    # nearest: 1 0 1 2 and 1 2 1 2
    assert neighbourhood_similarity(line, other, 1) == 0.75


def test_ranks_count_from_the_nearest(random):
    ranks = neighbour_ranks(np.array([[0.0], [1.0], [3.0], [7.0]]), random)
    assert ranks.tolist() == [[4, 1, 2, 3], [1, 4, 2, 3], [2, 1, 4, 3], [3, 2, 1, 4]]


def test_imbalance(random):
    points = random.normal(size=(500, 3))
    there, back = information_imbalance(points, 2 * points, 10)
    assert there == back == pytest.approx(2 / 500 * 5.5)  # the mean of the ranks 1 to 10
    for found in information_imbalance(points, random.permutation(points), 10):
        assert found == pytest.approx(1, abs=0.05)


def test_a_part_follows_from_the_whole_but_not_the_other_way(random):
    """Only the first axis is kept of two of equal size."""
    points = random.normal(size=(1500, 2))
    there, back = information_imbalance(points, points[:, :1], 3)
    assert there < 0.1
    assert 0.2 < back < 0.6


def test_leakage_shows(random):
    """A latent that holds the defocus predicts it; one that does not, does not."""
    defocus, motion = random.normal(size=(1000, 1)), random.normal(size=(1000, 1))
    assert information_imbalance(np.concatenate([motion, defocus], axis=1), defocus)[0] < 0.4
    assert information_imbalance(motion, defocus)[0] == pytest.approx(1, abs=0.05)


def test_ties_are_chance(random):
    """All particles of one state are equally near: the truth of a null predicts nothing."""
    found = information_imbalance(np.zeros((800, 1)), random.normal(size=(800, 2)), 10)
    assert found[0] == pytest.approx(1, abs=0.05)
