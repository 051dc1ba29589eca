"""Coverage of Fourier space by views, against what is known of simple sets of views."""

import math

import pytest
import torch

from gaussemble.physics.coverage import count_views, coverage, sphere_directions, view_axes
from gaussemble.physics.rotations import euler_to_matrix, random_rotations

SHELL = 25.0


def views(tilt: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random rot and psi."""
    rot, psi = (2 * math.pi * torch.rand(len(tilt), generator=generator, dtype=torch.float64) for _ in range(2))
    return euler_to_matrix(torch.stack([rot, tilt, psi], dim=-1))


def test_directions_are_even():
    """Each has its share of the half sphere: second moments of a sphere, and nearest neighbours alike."""
    directions = sphere_directions(500)
    assert torch.allclose(directions.norm(dim=1), torch.ones(500).double())
    assert torch.allclose(directions.T @ directions / 500, torch.eye(3).double() / 3, atol=0.005)
    nearest = (directions @ directions.T - 2 * torch.eye(500)).amax(dim=1).clamp(max=1).acos()
    assert nearest.min() > 0.7 * math.sqrt(2 * math.pi / 500)


def test_even_views_see_all_alike(generator):
    rotation = random_rotations(20_000, generator)
    counts = count_views(view_axes(rotation), sphere_directions(500), SHELL).double()
    # a slice one voxel thick covers 1 / (2 shell) of the directions, 400 of 20,000: 5 % of counting noise
    assert counts.mean().item() == pytest.approx(20_000 / (2 * SHELL), rel=0.01)
    found = coverage(rotation, SHELL)
    assert found.unseen == 0
    assert found.efficiency > 0.98


def test_side_views_have_the_published_efficiency(generator):
    """8 / pi² = 0.81 (Baldwin & Lyumkis 2020); the axis itself is in every slice."""
    rotation = views(torch.full((20_000,), math.pi / 2), generator)
    found = coverage(rotation, SHELL)
    assert found.unseen == 0
    assert found.efficiency == pytest.approx(8 / math.pi**2, abs=0.03)
    counts = count_views(view_axes(rotation), torch.tensor([[0, 0, 1.0], [1, 0, 0]]).double(), SHELL)
    assert counts[0] == 20_000
    assert counts[1] < 1000


def test_top_views_leave_a_cone_unseen(generator):
    """Tilts up to 30 degrees reach directions within 30 degrees of the equator: half of the sphere is beyond."""
    tilt = torch.rand(20_000, generator=generator, dtype=torch.float64) * math.pi / 6
    found = coverage(views(tilt, generator), SHELL)
    assert found.unseen == pytest.approx(0.5, abs=0.03)


def test_symmetry_fills_what_one_copy_leaves(generator):
    """An octahedron leaves four cones round its 3-folds, which stand 35.3 degrees over each plane of two axes."""
    tilt = torch.rand(2000, generator=generator, dtype=torch.float64) * math.pi / 6
    rotation = views(tilt, generator)
    assert coverage(rotation, SHELL, "C4").unseen > 0.4
    left = 4 * (1 - math.cos(math.asin(1 / math.sqrt(3)) - math.pi / 6))
    assert coverage(rotation, SHELL, "O").unseen == pytest.approx(left, abs=0.005)


def test_axes_are_those_of_the_volume():
    turned = euler_to_matrix(torch.tensor([[0.3, 0.5, 0.7]])).double()
    assert torch.allclose(view_axes(turned)[0], turned[0].T @ torch.tensor([0, 0, 1.0]).double())


def test_one_view_and_many(generator):
    """A single view sees a great circle; a million are looked at in part."""
    single = coverage(random_rotations(1, generator), SHELL)
    assert 0.9 < single.unseen < 1
    assert len(view_axes(random_rotations(1, generator).expand(200_000, 3, 3), "D2")) == 50_000
