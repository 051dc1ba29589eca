"""States: how often a particle counts at a point, and that distances are those of the stage latent."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gaussemble.analysis.states import Latents, State, posterior_counts, weighted_state


def amount(weight: np.ndarray) -> float:
    return float(weight.sum() ** 2 / np.square(weight).sum())


@pytest.fixture
def cloud() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2000, 2))


def test_counts_amount_to_what_was_asked_for(cloud):
    covariance = np.broadcast_to(0.01 * np.eye(2), (2000, 2, 2))
    for count in (50, 400):
        weight = posterior_counts(cloud, covariance, np.array([0.5, -0.5]), count)
        assert amount(weight) == pytest.approx(count, rel=0.01)
        assert weight.max() == 1
        nearest = np.square(cloud - [0.5, -0.5]).sum(1).argmin()
        assert weight[nearest] == 1


def test_posteriors_wider_than_the_kernel_need_none(cloud):
    """Then the counts are the posteriors' densities at the point."""
    covariance = np.broadcast_to(np.diag([4.0, 0.25]), (2000, 2, 2))
    weight = posterior_counts(cloud, covariance, np.zeros(2), 5)
    density = np.exp(-0.5 * (cloud[:, 0] ** 2 / 4 + cloud[:, 1] ** 2 / 0.25))
    assert np.allclose(weight, density / density.max(), rtol=1e-5)


def test_who_is_not_sure_counts_less_where_it_stands_and_more_elsewhere():
    pc, covariance = np.zeros((2, 1)), np.array([[[0.01]], [[1.0]]])
    here, there = (posterior_counts(pc, covariance, np.array([at]), 1) for at in (0.0, 1.0))
    assert here[0] > 5 * here[1]
    assert there[1] > 1000 * there[0]


def test_coordinates_are_the_tables_own():
    """Of any latent, not only of those in the table; the map is affine."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(50, 3)) * [1, 10, 0.1] + [5, 0, -2]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pc = (z / [0.2, 1, 0.3] - [1, 2, 3]) @ turn
    table = pd.DataFrame(np.hstack([z, pc]), columns=["z1", "z2", "z3", "pc1", "pc2", "pc3"])
    latents = Latents(Path("embedding.csv"), table, np.arange(50))
    at = np.array([[0.0, 7, 3], [5, 0, -2]])
    assert np.allclose(latents.coordinates(at), (at / [0.2, 1, 0.3] - [1, 2, 3]) @ turn)


def test_a_weighted_state_has_those_that_count_and_its_subset_the_most(cloud):
    table = pd.DataFrame(np.hstack([cloud, cloud]), columns=["z1", "z2", "pc1", "pc2"])
    rows = np.random.default_rng(2).permutation(2000)
    latents = Latents(Path("embedding.csv"), table, rows)
    counts = np.zeros(2000)
    counts[[3, 5, 8, 13]] = [1, 0.5, 0.5, 1e-4]
    state = weighted_state("t", latents, counts, np.zeros(2))
    assert sorted(state.rows.tolist()) == state.rows.tolist() == sorted(rows[[3, 5, 8]])
    assert state.effective == pytest.approx(4 / 1.5)
    assert rows[3] in state.subset
    assert len(state.subset) == 3
    alone = State("t", torch.tensor([4, 7]), torch.zeros(2))
    assert alone.effective == 2
    assert alone.subset.tolist() == [4, 7]
