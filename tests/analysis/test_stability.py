"""Stability of a number of clusters: laws of the two scores, and known numbers found again through two networks."""

import numpy as np
import pandas as pd
import pytest

from gaussemble.analysis.stability import (
    Seen,
    prediction_strength,
    reproduced,
    sentence,
    stability_table,
)
from gaussemble.errors import InputError

NAMES = ["clusters", "rand_index", "rand_index_error", "prediction_strength"]
PLACES = np.array([[-4, 0, 0], [0, 4, 0], [4, 0, 0], [0, -4, 0.0]])  # of four states; axis 3 says nothing


def networks(noise: float, count: int = 600, states: int = 4, seed: int = 1) -> tuple[Seen, Seen]:
    """Particles of some states as two networks see them: each turns and stretches, and adds an error of its own."""
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.8, 1.2, 3) for _ in range(2)]
    rng = np.random.default_rng(seed)
    halves = []
    for own in (0, 1):
        true = PLACES[rng.integers(0, states, count)] + 0.3 * rng.normal(size=(count, 3))
        seen = [(true + noise * rng.normal(size=(count, 3))) @ turn for turn in turns]
        halves.append(Seen(seen[own], seen[1 - own]))
    return halves[0], halves[1]


def test_numbers_of_clusters_do_not_matter():
    rng = np.random.default_rng(0)
    found, predicted = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    swapped = np.array([2, 0, 1])[predicted]
    assert prediction_strength(predicted, found) == prediction_strength(swapped, found)
    assert prediction_strength(swapped[found], found) == prediction_strength(found, found) == 1


def test_prediction_strength_is_the_share_of_pairs_of_the_worst_cluster():
    found = np.array([0, 0, 0, 0, 1, 1, 1])
    predicted = np.array([0, 0, 1, 1, 2, 2, 2])
    assert prediction_strength(predicted, found) == pytest.approx(2 / 6)  # pairs 01 and 23 of six
    assert prediction_strength(found, predicted) == 1  # the two parts of a cluster stay together


@pytest.mark.parametrize("states", [2, 3, 4])
def test_the_known_number_is_reproduced_and_no_larger_one(states):
    table = stability_table(*networks(0.3, states=states), most=6)
    assert list(table["clusters"]) == [2, 3, 4, 5, 6]
    assert reproduced(table) == states
    row = table[table["clusters"] == states].iloc[0]
    assert row["rand_index"] > 0.99 and row["prediction_strength"] > 0.99
    assert f"{states} is the largest number" in sentence(table)


def test_networks_that_see_different_things_reproduce_nothing():
    table = stability_table(*networks(60.0), most=4)
    assert (table["rand_index"].abs() < 4 * table["rand_index_error"] + 0.02).all()
    assert reproduced(table) == 1
    assert "no number is found alike" in sentence(table)


def test_the_error_is_that_of_repeated_data():
    """Two networks and four states, with other particles each time; three states of four are an arbitrary division."""
    tables = [stability_table(*networks(1.2, seed=5 + number), most=4) for number in range(8)]
    indices, stated = (np.array([table[name].iloc[-1] for table in tables]) for name in NAMES[1:3])
    assert 0.5 < stated.mean() / indices.std(ddof=1) < 2  # the scatter of eight is known to a quarter
    assert all(table["rand_index_error"].iloc[1] > table["rand_index_error"].iloc[2] for table in tables)


def test_what_the_null_reaches_too_is_not_reproduced():
    table = stability_table(*networks(0.3), most=4)
    assert reproduced(table, table) == 1
    poor = stability_table(*networks(60.0), most=4)
    assert reproduced(table, poor) == 4
    assert reproduced(table, poor[poor["clusters"] < 4]) == 1  # a number that the null was not asked for


def test_the_tables_columns():
    table = stability_table(*networks(1.0, count=100), most=2)
    assert isinstance(table, pd.DataFrame) and list(table) == NAMES


def test_few_particles_are_divided_into_few_clusters_or_refused():
    even, odd = networks(0.1, count=20)
    assert list(stability_table(even, odd)["clusters"]) == [2]
    few = Seen(even.own[:7], even.other[:7])
    with pytest.raises(InputError, match="a half has 7 particles: too few"):
        stability_table(few, odd)
