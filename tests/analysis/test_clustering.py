"""Clusters of known groups by every method, laws of their numbers, and a user's own labels."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from gaussemble.analysis import clustering
from gaussemble.analysis.clustering import find_clusters, most_probable, nearest_pair, numbered, read_labels
from gaussemble.errors import InputError


def groups(size: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four groups at the corners of a 12 x 6 rectangle, sd 1, the long side along the first axis."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 4, size)
    corner = np.array([[-6, -3, 0], [-5, 3, 0], [5, -3, 0], [6, 3, 0]], dtype=float)
    return corner[state] + rng.normal(size=(size, 3)), state


@pytest.mark.parametrize("method", ["kmeans", "gaussian_mixture", "hdbscan"])
def test_known_groups_are_found_and_numbered_along_pc1(method):
    pc, state = groups()
    found = find_clusters(pc, 4, method)
    inside = found.number > 0
    assert inside.mean() > (0.9 if method == "hdbscan" else 0.999)
    assert adjusted_rand_score(state[inside], found.number[inside]) > 0.98  # 6 sd apart: 0.1 % lie beyond the border
    means = [pc[found.number == k, 0].mean() for k in (1, 2, 3, 4)]
    assert means == sorted(means)
    assert found.sizes.sum() == inside.sum() and len(found.sizes) == 4


def test_what_lies_between_dense_groups_is_in_none():
    pc, _ = groups()
    far = np.array([[30.0, 30, 0], [-30, 30, 30], [0, 40, 0]])
    found = find_clusters(np.concatenate([pc, far]), 4, "hdbscan")
    assert (found.number[-3:] == 0).all() and found.number.max() == 4
    assert found.probability is not None and (found.probability[found.number == 0] == 0).all()


def test_particles_beyond_the_sample_join_their_nearest_ones(monkeypatch):
    pc, state = groups(2000)
    pc[:, 1] *= 3  # four groups far from each other, also for few particles
    monkeypatch.setattr(clustering, "DENSE", 500)
    found = find_clusters(pc, 4, "hdbscan", smallest=100)
    inside = found.number > 0
    assert inside.mean() > 0.8 and adjusted_rand_score(state[inside], found.number[inside]) > 0.98


def test_numbers_follow_the_coordinate_whatever_the_labels():
    along = np.array([5.0, 1, 1, 9, 5])
    assert list(numbered(np.array([7, 2, 2, 0, 7]), along)) == [2, 1, 1, 3, 2]
    assert list(numbered(np.array([0, 7, 7, 2, 0]), along)) == [2, 1, 1, 3, 2]
    assert list(numbered(np.array([-1, 2, 2, 0, -1]), along)) == [0, 1, 1, 2, 0]
    assert list(numbered(np.full(5, -1), along)) == [0] * 5


def test_the_most_probable_cluster_and_its_probability():
    probability = np.array([[0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]])
    found = most_probable(probability, np.array([-1.0, 3, -2]))
    assert list(found.number) == [1, 2, 1]  # a class that no particle is in has no number
    np.testing.assert_array_equal(found.probability, [0.8, 0.9, 0.6])
    table = found.table(np.array([3, 5, 9]))
    assert list(table) == ["particle", "cluster", "probability"] and list(table["particle"]) == [3, 5, 9]
    assert list(find_clusters(groups()[0], 2).table(np.arange(400))) == ["particle", "cluster"]


def test_the_nearest_clusters_and_their_distance():
    pc = np.array([[0.0, 0], [0, 2], [5, 0], [5, 2], [5, 7], [5, 9], [99, 99]])
    assert nearest_pair(pc, np.array([1, 1, 2, 2, 4, 4, 0])) == (1, 2, 5.0)  # centres 5 and 7 apart; 0 is none


def test_labels_are_found_by_particle_also_for_copies_and_one_split(tmp_path, capsys):
    pd.DataFrame({"particle": [4, 0, 2, 1], "cluster": [3, 1, 0, 2]}).to_csv(tmp_path / "own.csv", index=False)
    found = read_labels(tmp_path / "own.csv", np.array([0, 0, 2, 4]), in_file=5)
    assert list(found.number) == [1, 1, 0, 3] and list(found.sizes) == [2, 0, 1]
    assert "1 of its particles are not in this split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"particle": [0, 1], "cluster": [1, 2]}, r"no cluster of particle 2, one of 1 that have none of 3"),
        ({"particle": [0, 1, 2, 2], "cluster": [1, 2, 1, 3]}, "particle 2 stands in more than one cluster"),
        ({"particle": [0, 1, 2], "cluster": [1, 2, 1.5]}, r"row 3: cluster is 1.5; expected a whole number from 0$"),
        ({"particle": [0, 1, 2], "cluster": [1, -1, 1]}, "row 2: cluster is -1"),
        ({"particle": [0, 1, 2, 9], "cluster": [1, 1, 1, 1]}, r"row 4: particle is 9; .* 0 to 8, the input's last row"),
        ({"particle": [0, 1, 2], "cluster": [0, 0, 0]}, "all particles are in cluster 0"),
        ({"particle": [0, 1, 2], "class": [0, 0, 0]}, "no column.*cluster|cluster"),
    ],
)
def test_labels_that_do_not_serve_are_told_in_one_line(tmp_path, rows, message):
    pd.DataFrame(rows).to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(InputError, match=message) as error:
        read_labels(tmp_path / "own.csv", np.arange(3), in_file=9)
    assert "\n" not in str(error.value)
