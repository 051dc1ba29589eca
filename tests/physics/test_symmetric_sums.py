"""Symmetry on the grid against inserting every image under all operators, and against the density itself."""

import pytest
import torch

from gaussemble.physics.backprojection import (
    Sums,
    divide,
    empty_sums,
    in_sphere,
    insert,
    weighted_slices,
    with_mates,
)
from gaussemble.physics.ctf import evaluate
from gaussemble.physics.fourier import to_real
from gaussemble.physics.masks import within_sphere
from gaussemble.physics.projection import mixture_to_map, project, shift_phases
from gaussemble.physics.symmetric_sums import symmetrised
from gaussemble.physics.symmetry import operators
from gaussemble.quantities import Mixture
from made_store import make_particles

PIXEL = 4.0


def symmetric_mixture(name: str, generator: torch.Generator) -> Mixture:
    """Four Gaussians without symmetry or hand, and all their copies."""
    group = operators(name).float()
    center = 10 * torch.randn(4, 3, generator=generator) + torch.tensor([18.0, 8, 25])
    amplitude = 60 * (torch.rand(4, generator=generator) + 0.3).repeat(len(group)) / len(group)
    # centres (gaussian, operator) flatten to operator fastest, amplitudes must follow
    copies = (group @ center.T).mT.flatten(end_dim=1)
    return Mixture(copies, amplitude, torch.full((len(copies),), 6.0))


def summed(mixture: Mixture, count: int, box: int, generator: torch.Generator, name: str = "C1") -> Sums:
    """Noisy images of random views, each inserted under all operators of the group."""
    particles = make_particles(count, generator)
    transform = project(mixture, particles.rotation, box, PIXEL) * evaluate(particles.ctf, box, PIXEL)
    images = to_real(transform * shift_phases(particles.shift, box, PIXEL), box)
    images = images + 0.3 * images.std() * torch.randn(images.shape, generator=generator)
    data, weights = weighted_slices(images, particles, PIXEL)
    sums = empty_sums(1, box, 2)
    pairs = torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.long)], dim=-1)
    for operator in operators(name).float():
        insert(sums, data, weights, particles.rotation @ operator, pairs)
    return sums


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("name", ["D2", "C4", "O"])
def test_cells_that_fall_on_cells_hold_what_all_operators_insert(name, box):
    """Real and imaginary parts and weights, the plane x = 0 too, inside the sphere that becomes the map."""
    mixture = symmetric_mixture(name, torch.Generator().manual_seed(1))
    found = symmetrised(summed(mixture, 5, box, torch.Generator().manual_seed(2)), name)
    expected = summed(mixture, 5, box, torch.Generator().manual_seed(2), name)
    reach = found.cells.shape[1] // 2
    axis = torch.arange(-reach, reach + 1)
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis[reach:] ** 2 < box**2
    found, expected = with_mates(found.cells[0])[inside], with_mates(expected.cells[0])[inside]
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


# What one more interpolation may change: noise between the cells is smoothed, the signal is not. Where cells fall on
# cells, rounding.
@pytest.mark.parametrize(
    ("name", "count", "tolerance"),
    [("D2", 300, 1e-3), ("O", 60, 1e-3), ("C3", 400, 0.03), ("T", 100, 0.05), ("I", 40, 0.06)],
)
def test_same_map_as_all_operators_inserted(name, count, tolerance):
    box = 40
    mixture = symmetric_mixture(name, torch.Generator().manual_seed(1))
    found = divide(symmetrised(summed(mixture, count, box, torch.Generator().manual_seed(2)), name))
    expected = divide(summed(mixture, count, box, torch.Generator().manual_seed(2), name))
    sphere = torch.from_numpy(within_sphere(box))
    truth = mixture_to_map(mixture, box, PIXEL)[sphere]
    assert relative(found[sphere], expected[sphere]) < tolerance
    assert relative(found[sphere], truth) < relative(expected[sphere], truth) + 0.015  # 4 to 6 % without it
    scale = (found[sphere] @ truth) / (truth @ truth)
    assert scale.item() == pytest.approx(float((expected[sphere] @ truth) / (truth @ truth)), abs=0.015)


@pytest.mark.parametrize(("name", "wrong"), [("I2", "I1"), ("C3", "C4"), ("O", "I"), ("D3", "T")])
def test_another_groups_axes_give_another_map(name, wrong):
    box = 32
    mixture = symmetric_mixture(name, torch.Generator().manual_seed(1))
    sums = summed(mixture, 60, box, torch.Generator().manual_seed(2))
    truth = mixture_to_map(mixture, box, PIXEL)
    right, other = (relative(divide(symmetrised(sums, group)), truth) for group in (name, wrong))
    assert right < 0.15  # noise of few images
    assert other > 0.3


def test_what_has_no_symmetry_is_left_alone(generator):
    sums = empty_sums(2, 8, 1)
    assert symmetrised(sums, "C1") is sums


def test_same_result_with_any_number_of_threads(generator):
    mixture = symmetric_mixture("C3", generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(symmetrised(summed(mixture, 20, 20, torch.Generator().manual_seed(2)), "C3").cells)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_corners_become_their_mean():
    """1 within the sphere; beyond it nothing but one value, that of the corners' mean."""
    voxels = torch.arange(20.0**3).view(20, 20, 20)
    found = in_sphere(voxels)
    sphere = torch.from_numpy(within_sphere(20))
    assert torch.equal(found[sphere], voxels[sphere])
    assert found[0, 0, 0] == found[-1, -1, 0]
    assert float(found[0, 0, 0]) == pytest.approx(float(voxels[0, 0, 0] + voxels[-1, -1, -1]) / 2, rel=0.1)
