"""Motions as fields: their metric is that of density, ends have no order, what has vanished does not move."""

import numpy as np
import pytest

from gaussemble.analysis.chance import Likelihoods, fit_normal
from gaussemble.analysis.motions import (
    Change,
    Points,
    as_vector,
    carried_over,
    compare_changes,
    cosine,
    direction_gain,
    displacements,
    fading,
    in_span,
    wholeness,
)
from gaussemble.analysis.verdict import WHOLE

WIDTH = 3.0


@pytest.fixture
def points() -> Points:
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.5, 2, 60)
    return Points(rng.normal(size=(60, 3)) * 20, mass / mass.sum(), np.full(60, WIDTH))


def change(points: Points, displacement=0.0, presence=0.0, name="pc1", present=1.0) -> Change:
    count = len(points.weight)
    return Change(
        name,
        np.zeros((count, 3)) + displacement,
        np.zeros(count) + presence,
        np.zeros(count) + present,
        np.array([1.0, 0]),
    )


@pytest.mark.parametrize("length", [0.3, 4.0, 30.0])
def test_a_displaced_gaussian_changes_density_by_the_integral(length):
    """|change|² against the integral of the squared difference on a grid, over that of the square."""
    grid = np.arange(-60, 60, 0.5)
    still, moved = (np.exp(-np.square(grid - place) / (2 * WIDTH**2)) for place in (0, length))
    expected = np.square(moved - still).sum() / np.square(still).sum()
    one = Points(np.zeros((1, 3)), np.ones(1), np.full(1, WIDTH))
    found = np.square(as_vector(change(one, np.array([0, length, 0])), one)).sum()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_part_that_vanishes_changes_by_its_share(points):
    assert np.square(as_vector(change(points, presence=-0.5, present=0.5), points)).sum() == pytest.approx(0.25)
    assert cosine(as_vector(change(points, presence=-0.2), points), fading(points)) == pytest.approx(-1)


def test_what_is_absent_at_an_end_does_not_move(points):
    gone = change(points, displacement=np.array([30.0, 0, 0]), presence=-1.0, present=0.0)
    np.testing.assert_allclose(as_vector(gone, points), -fading(points), atol=1e-12)
    assert displacements(gone, gone, 1.0, points)["displacement"] == [0, 0]


def swing(points: Points, size: float) -> np.ndarray:
    """Half of the points move along x, in proportion to their z."""
    field = np.zeros((60, 3))
    field[:30, 0] = size * points.place[:30, 2] / 10
    return field


def test_motions_are_matched_whatever_their_order_and_ends(points):
    rng = np.random.default_rng(1)
    up = np.zeros((60, 3))
    up[30:, 2] = 2.0
    even = [change(points, swing(points, 3), name="pc1"), change(points, up, name="pc2")]
    noise = 0.2 * rng.normal(size=(2, 60, 3))
    odd = [change(points, -up + noise[0], name="pc1"), change(points, -2 * swing(points, 3) + noise[1], name="pc2")]
    rows, fields = compare_changes(even, odd, points)
    assert [(row["even"], row["odd"]) for row in rows] == [("pc1", "pc2"), ("pc2", "pc1")]
    assert all(row["kind"] == "motion" and row["cosine"] > 0.9 for row in rows)
    assert rows[0]["ratio"] == pytest.approx(2, rel=0.1)
    assert rows[1]["ratio"] == pytest.approx(1, rel=0.1)
    assert rows[1]["difference"] == pytest.approx(0.2 * 3**0.5, rel=0.25)  # Å, the noise
    assert rows[1]["displacement_cosine"] > 0.95
    np.testing.assert_allclose(fields[1]["dz_odd"][30:], 2, atol=0.8)  # ends exchanged


def test_a_mixture_of_the_others_motions_lies_in_their_span(points):
    a, b = swing(points, 1), np.zeros((60, 3))
    b[30:, 1] = 2
    even = [change(points, a + b, name="pc1"), change(points, a - b, name="pc2")]
    odd = [change(points, a, name="pc1"), change(points, b, name="pc2")]
    rows, _ = compare_changes(even, odd, points)
    assert max(row["cosine"] for row in rows) < 0.95
    assert all(row["span"] > 0.97 for row in rows)
    assert in_span(fading(points), [as_vector(each, points) for each in odd]) < 0.01


def test_fields_are_carried_to_other_gaussians(points):
    rng = np.random.default_rng(2)
    own = Points(
        np.repeat(points.place, 4, axis=0) + 0.3 * rng.normal(size=(240, 3)), np.full(240, 1 / 240), np.ones(240)
    )
    moved = Change("pc1", 0.1 * own.place, np.full(240, -0.3), np.full(240, 0.7), np.ones(2))
    there = carried_over([moved], own, points)[0]
    np.testing.assert_allclose(there.displacement, 0.1 * points.place, atol=0.5)
    np.testing.assert_allclose(there.presence, -0.3)
    np.testing.assert_allclose(there.present, 0.7)


def test_a_molecule_that_moves_as_a_whole_is_told_from_one_that_bends(points):
    """As poses that are off show it: turned by 2°, shifted by 1 Å; a hinge between two halves is none of that."""
    axis = np.array([0.3, -0.8, 0.5])
    turned = np.deg2rad(2) * np.cross(axis / np.linalg.norm(axis), points.place - 4.0) + np.array([0, 0.6, 0.8])
    assert wholeness(change(points, turned), points) == pytest.approx(1)
    hinge = np.where(points.place[:, :1] > 0, np.cross([0, 0, 0.1], points.place), 0)
    assert wholeness(change(points, hinge), points) < WHOLE
    assert wholeness(change(points), points) == 0


def particles(count: int, spread: np.ndarray, seed: int) -> Likelihoods:
    """Latents of a spread, each seen with a precision of 4 along both axes."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 2)) * spread + rng.normal(size=(count, 2)) / 2
    return Likelihoods(np.tile(4 * np.eye(2), (count, 1, 1)), 4 * z)


def test_only_a_direction_along_which_particles_vary_is_borne_out():
    """One axis with a spread of 1, against the exact gain."""
    own, others = particles(3000, np.array([1.0, 0]), 0), particles(3000, np.array([1.0, 0]), 1)
    population = fit_normal(own)
    real = direction_gain(population, others, np.array([2.0, 0]))
    spurious = direction_gain(population, others, np.array([0.0, 0.01]))
    expected = 0.5 * (4 * (1 + 0.25) - 1 - np.log(5))  # KL of N(0, 1.25) from N(0, 0.25), in nats
    assert real["gain"] == pytest.approx(expected, abs=4 * real["error"])
    assert spurious["gain"] < 0.01 + 3 * spurious["error"]
    # a direction that leans to the axis which nobody uses is the used one all the same
    leaning = direction_gain(population, others, np.array([2.0, 0.5]))
    assert leaning["gain"] == pytest.approx(real["gain"], rel=0.02)


def test_a_narrow_axis_that_images_resolve_is_not_hidden_by_a_wide_one():
    """Spreads of 10 and 1, each seen to within 0.5: both are borne out."""
    own, others = particles(3000, np.array([10.0, 1.0]), 0), particles(3000, np.array([10.0, 1.0]), 1)
    population = fit_normal(own)
    for direction in np.eye(2):
        found = direction_gain(population, others, direction)
        assert found["gain"] > 1  # 1.2 of the narrow one, as above
        assert found["gain"] > 10 * found["error"]
