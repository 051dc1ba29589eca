"""Latents of the same particles by two networks: scores that do not depend on axes, and tables that belong together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gaussemble.analysis.shared import (
    arrangement,
    canonical,
    evidence_scores,
    latent_scores,
    nearest_cluster,
    neighbor_overlap,
    read_latents,
    shared_of,
)
from gaussemble.errors import InputError
from gaussemble.io.files import write_csv


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(800, 3))


def test_canonical_correlations_see_through_any_linear_map(z):
    other = z @ np.array([[0.3, 2.0, 0], [-1.5, 0.2, 0], [0, 0.4, -4.0]]) + 7
    correlation, first, second = canonical(z, other)
    np.testing.assert_allclose(correlation, 1, atol=1e-9)
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first.T @ first / len(z), np.eye(3), atol=1e-9)


def test_canonical_correlation_of_a_noisy_copy_is_pearsons(z):
    """One shared axis with noise of variance 1 on each side: S / (S + N) = 0.8 for a signal of variance 4."""
    rng = np.random.default_rng(1)
    signal = 2 * rng.normal(size=20_000)
    first, second = (np.column_stack([signal, np.zeros(20_000)]) + rng.normal(size=(20_000, 2)) for _ in range(2))
    correlation, *_ = canonical(first, second)
    assert correlation[0] == pytest.approx(0.8, abs=0.01)
    assert correlation[1] < 0.03


def test_latents_of_different_length_and_unused_axes(z):
    other = np.column_stack([z[:, 0], np.zeros(len(z)), z[:, 1], z[:, 2]])
    assert canonical(z, other)[0] == pytest.approx([1, 1, 1])


def test_neighbours_are_the_same_ones_or_those_of_chance(z):
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    assert neighbor_overlap(z, 3 * z @ turn)[0] == 1
    overlap, chance = neighbor_overlap(z, np.random.default_rng(3).normal(size=z.shape))
    assert chance == pytest.approx(10 / 799)
    assert overlap == pytest.approx(chance, abs=0.01)


def test_the_nearest_centre():
    centers = np.array([[0.0, 0], [4, 0]])
    np.testing.assert_array_equal(nearest_cluster(np.array([[1.0, 5], [2.5, 0], [9, 9]]), centers), [0, 1, 1])


def test_the_arrangement_is_one_of_distances_alone():
    places = np.array([[0.0, 0], [1, 0], [5, 0], [0, 9]])
    turned = 2.5 * places @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + 3
    assert arrangement(places, turned)["correlation"] == pytest.approx(1)
    assert arrangement(places, turned[[3, 1, 2, 0]])["correlation"] < 0.7
    assert arrangement(places[:2], turned[:2]) == {"distances": 1, "correlation": None, "rank_correlation": None}


def write_halves(root: Path, z: np.ndarray) -> None:
    """Even network: z; odd network: -2 z; both with a deviation of a tenth."""
    for half, own, other in (("even", 1.0, -2.0), ("odd", -2.0, 1.0)):
        rows = np.arange(0 if half == "even" else 1, len(z), 2)
        for folder, factor in (("heterogeneity", own), ("crossed", other)):
            table = pd.DataFrame({"particle": rows, "z1": factor * z[rows, 0], "z2": factor * z[rows, 1]})
            table = table.assign(sd1=0.1 * abs(factor), sd2=0.1 * abs(factor), gain=0.5 if half == "even" else -0.1)
            write_csv(root / half / folder / "latent.csv", table)


def test_four_tables_become_one(tmp_path, z):
    write_halves(tmp_path, z)
    table, units = read_latents(tmp_path / "even", tmp_path / "odd")
    assert list(table) == [
        *("particle", "half", "z_even1", "z_even2", "z_odd1", "z_odd2"),
        *("sd_even1", "sd_even2", "sd_odd1", "sd_odd2", "gain"),
    ]
    np.testing.assert_allclose(table["z_odd1"], -2 * table["z_even1"], rtol=1e-5)  # files have seven digits
    assert set(table["particle"][table["half"] == "odd"]) == set(range(1, 800, 2))
    shared = shared_of(table, units)
    np.testing.assert_allclose(shared.odd, -shared.even, rtol=1e-5)  # each in its own uncertainty
    centers = {"even": np.array([[-5.0, 0], [5, 0]]), "odd": np.array([[5.0, 0], [-5, 0]])}
    scores = latent_scores(shared, centers)
    assert scores["rand_index"] == 1
    assert latent_scores(shared, centers | {"odd": np.zeros((1, 2))})["rand_index"] is None
    assert latent_scores(shared, dict.fromkeys(centers, np.zeros((1, 2))))["rand_index"] is None
    assert scores["neighbor_overlap"] == 1
    assert scores["canonical_correlations"] == [1, 1]
    found = evidence_scores(shared)
    assert found["even"]["gain"] == pytest.approx(0.5)
    assert found["odd"]["gain"] == pytest.approx(-0.1)
    assert found["both"]["gain"] == pytest.approx(0.2)
    assert not found["odd"]["beyond_chance"]


def test_tables_of_other_particles_are_refused(tmp_path, z):
    write_halves(tmp_path, z)
    path = tmp_path / "odd/crossed/latent.csv"
    write_csv(path, pd.read_csv(path).iloc[::-1])
    with pytest.raises(InputError, match="run the stage crossing again"):
        read_latents(tmp_path / "even", tmp_path / "odd")
