"""Motions followed by their particles: axes do not matter, particles do; contrast is no structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gaussemble.analysis.following import Half, followed, same_particles, structure_share
from gaussemble.analysis.motions import (
    Change,
    as_vector,
    carried_over,
    change_between,
    compare_changes,
    cosine,
    points_of,
)
from gaussemble.quantities import Map, Mixture
from made_results import BOX, PIXEL, made_model, molecule

TURN = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


def half(axes: np.ndarray, seed: int) -> Half:
    """A half whose network is one and the same, and whose trajectories lead along the rows of `axes`."""
    z = np.random.default_rng(seed).normal(size=(600, 3)) * [1.0, 1.0, 0.3]
    ends = {
        f"pc{number}": np.stack([-1.5 * axis, 1.5 * axis]).astype(np.float32) for number, axis in enumerate(axes, 1)
    }
    model = made_model().eval()
    return Half(ends, model, points_of(model), z, z, np.ones(3))


def read_changes_of(of: Half) -> list[Change]:
    """Its trajectories, of the particles at their ends."""
    places = {name: same_particles(of.own, of.crossed, ends, of.unit)[0] for name, ends in of.ends.items()}
    return [change_between(of.model, place, name) for name, place in places.items()]


def test_the_same_particles_are_found_in_the_other_network():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(1000, 2))
    ends = np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32)
    mine, theirs = same_particles(own, 10 + own @ np.array([[0.0, 3.0], [-3.0, 0.0]]), ends, np.ones(2))
    torch.testing.assert_close(mine, torch.tensor(ends), atol=0.1, rtol=0)
    torch.testing.assert_close(theirs, torch.tensor([[10.0, 7.0], [10.0, 13.0]]), atol=0.3, rtol=0)


def test_a_motion_is_followed_whatever_the_other_halfs_axes_are():
    even, odd = half(np.eye(3)[:2], 1), half(TURN[:2], 2)
    first, points = read_changes_of(even), even.points
    for found, own in ((followed(even, odd, True), even), (followed(odd, even, False), odd)):
        for change in read_changes_of(own):
            carried = carried_over([change], points, points)[0]  # to the same points: a little smoother
            expected = cosine(as_vector(change, points), as_vector(carried, points))
            assert found[change.name]["cosine"] == pytest.approx(expected, abs=0.03)
    rows, _ = compare_changes(first, read_changes_of(odd), points)
    assert max(row["cosine"] for row in rows) < 0.97  # by axes they are not the same


def test_it_is_not_the_same_where_the_other_network_places_the_particles_otherwise():
    even, odd = half(np.eye(3)[:2], 1), half(np.eye(3)[:2], 2)
    rng = np.random.default_rng(3)
    elsewhere = replace(even, crossed=rng.permutation(even.crossed))
    for name, each in followed(elsewhere, odd, True).items():
        assert each["displacement"][1] < 0.5 * each["displacement"][0], name
    reversed_ends = followed(replace(even, crossed=-even.crossed), odd, True)
    assert all(each["cosine"] < 0 for each in reversed_ends.values())


@pytest.mark.parametrize(("what", "low", "high"), [("fades", 0.0, 0.05), ("swings", 0.5, 1.0)])
def test_contrast_is_no_structure(what, low, high):
    model, rest = made_model(), molecule()
    other = molecule(40.0) if what == "swings" else Mixture(rest.center, 0.6 * rest.amplitude, rest.width)
    model.decode = lambda _: Mixture(  # pyright: ignore[reportAttributeAccessIssue]
        *(torch.stack([getattr(each, name) for each in (rest, other)]) for name in ("center", "amplitude", "width"))
    )
    mask = Map(torch.ones(BOX, BOX, BOX), PIXEL)
    share = structure_share(model, np.zeros((2, 3), np.float32), mask)
    assert low <= share <= high
