"""Point groups: laws of groups, axes, and that a symmetric density looks the same from equivalent views."""

import math

import pytest
import torch

from gaussemble.errors import InputError
from gaussemble.physics.projection import project
from gaussemble.physics.rotations import euler_to_matrix, matrix_to_euler, random_rotations
from gaussemble.physics.symmetry import expand, operators
from gaussemble.quantities import Mixture

ORDERS = {"C1": 1, "C4": 4, "C11": 11, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60}
ORDERS |= {"I3": 60, "I4": 60}


def nearest(matrices: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Largest difference of each matrix from the operator that is nearest to it."""
    return (matrices[:, None] - group).abs().amax(dim=(2, 3)).amin(dim=1)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_is_a_group_of_rotations(name, order):
    group = operators(name)
    assert group.shape == (order, 3, 3)
    assert group.dtype == torch.float64
    assert torch.allclose(group[0], torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(torch.linalg.det(group), torch.ones(order, dtype=torch.float64))
    assert torch.allclose(group @ group.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert nearest((group[:, None] @ group).flatten(end_dim=1), group).max() < 1e-12  # closed
    assert nearest(group.mT, group).max() < 1e-12  # inverses
    different = (group[:, None] - group).abs().amax(dim=(2, 3)) + torch.eye(order)
    assert different.min() > 0.1


def fold(group: torch.Tensor, axis: list[float]) -> int:
    """How many operators leave an axis as it is."""
    unit = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    return int(((group @ unit - unit).norm(dim=1) < 1e-9).sum())


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("C5", [0, 0, 1], 5),
        ("D7", [0, 0, 1], 7),
        ("D7", [1, 0, 0], 2),
        ("T", [0, 0, 1], 3),
        ("T", [0, math.sqrt(2), 1], 2),
        ("O", [0, 0, 1], 4),
        ("O", [1, 1, 1], 3),
        ("I1", [1 + math.sqrt(5), 0, -2], 5),
        ("I2", [2, 0, 1 + math.sqrt(5)], 5),
        ("I3", [0, 0, 1], 5),
        ("I4", [0, 0, 1], 5),
    ],
)
def test_axes_stand_where_relions_stand(name, axis, expected):
    assert fold(operators(name), axis) == expected


def test_i3_and_i4_are_apart():
    """They share the 5-fold along z; 2-folds lie in the plane of x and z on opposite sides."""
    side = [-2, 0, 1 + math.sqrt(5)]
    assert [fold(operators(name), side) for name in ("I3", "I4")] == [2, 1]


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I"])
def test_symmetric_density_looks_the_same_from_equivalent_views(name, generator):
    """A lopsided mixture and all its copies; x_view = R S x_volume. Turned on the other side, S R, it does not."""
    group = operators(name)
    center = 20 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    copies = (center @ group.mT).flatten(end_dim=1)
    amplitude = torch.rand(4, generator=generator, dtype=torch.float64).repeat(len(group))
    mixture = Mixture(copies, amplitude, torch.full((len(copies),), 6.0, dtype=torch.float64))
    rotation = random_rotations(3, generator)
    views = project(mixture, rotation, 16, 5.0)
    for operator in group:
        assert torch.allclose(project(mixture, rotation @ operator, 16, 5.0), views, atol=1e-9)
    assert not torch.allclose(project(mixture, group[-1] @ rotation, 16, 5.0), views, atol=0.1)


def test_expand_keeps_particles_together_and_the_first_as_given(generator):
    angles = matrix_to_euler(random_rotations(5, generator)) + torch.tensor([2 * math.pi, 0, 0])
    copies = expand(angles, "d2")
    assert copies.shape == (20, 3)
    assert torch.equal(copies[::4], angles)
    expected = euler_to_matrix(angles)[:, None] @ operators("D2")
    assert torch.allclose(euler_to_matrix(copies).view(5, 4, 3, 3), expected, atol=1e-9)


@pytest.mark.parametrize(("name", "expected"), [("c4", 4), (" C1 ", 1), ("i", 60), ("C02", 2)])
def test_names_are_read_as_people_write_them(name, expected):
    assert len(operators(name)) == expected


def test_operators_may_be_changed_by_who_asked():
    operators("C2").zero_()
    assert operators("C2")[0, 0, 0] == 1


@pytest.mark.parametrize("name", ["C4V", "D2h", "Th", "S6", "I2H", "Cs"])
def test_mirrors_are_refused(name):
    with pytest.raises(InputError, match="has mirrors, molecules have none; give its rotations: C1, C2"):
        operators(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("O9", "near it: O;"), ("D", "near it: D"), ("I5", "near it: I"), ("C0", "near it: C"), ("", "")]
)
def test_unknown_names_are_refused_with_near_ones(name, hint):
    with pytest.raises(InputError, match=rf"symmetry '{name}' is not known.*{hint}.*expected C1"):
        operators(name)
