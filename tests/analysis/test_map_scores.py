"""Areas under FSC curves, captured variance and motion errors, on cases with known answers."""

import math

import numpy as np
import pytest
import torch

from gaussemble.analysis.map_scores import (
    captured_variance,
    floor_shells,
    fsc_area,
    motion_error,
    shell_curve,
    true_displacement,
)
from gaussemble.quantities import Mixture


def noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def test_area_is_bounded_by_the_same_map(generator):
    voxels = noise(generator, 32, 32, 32)
    assert fsc_area(voxels, 3 * voxels) == pytest.approx(0.5 - 1 / 32)
    assert fsc_area(voxels, -voxels) == pytest.approx((1 - 1 - 0) / 32 - (0.5 - 2 / 32), abs=1e-6)


def test_area_of_unrelated_maps_is_that_of_the_first_shell(generator):
    """Shell 0 is 1 by definition; shell 1 holds F(0) alone, here of the same sign."""
    first, second = noise(generator, 32, 32, 32) + 1, noise(generator, 32, 32, 32) + 1
    assert fsc_area(first, second) == pytest.approx(1.5 / 32, abs=0.02)


def test_shells_are_those_of_the_definition(generator):
    """Against a plain loop over the whole transform: i - 1 <= |k| < i."""
    box = 12
    first, second = noise(generator, box, box, box), noise(generator, box, box, box)
    one, other = (np.fft.fftn(voxels.numpy()) for voxels in (first, second))
    axis = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)
    curve = [1.0]
    for shell in range(1, box // 2):
        inside = (radius >= shell - 1) & (radius < shell)
        a, b = one[inside], other[inside]
        curve.append((a.conj() * b).real.sum() / np.sqrt((abs(a) ** 2).sum() * (abs(b) ** 2).sum()))
    assert np.allclose(shell_curve(first, second).numpy(), curve, atol=1e-6)
    assert len(floor_shells(box)[0]) == box * box * (box // 2 + 1)


def test_a_lost_half_of_the_shells_is_a_lost_half_of_the_area(generator):
    voxels = noise(generator, 32, 32, 32).double()
    transform = torch.fft.rfftn(voxels)
    index = floor_shells(32)[0].reshape(transform.shape)
    low = torch.fft.irfftn(transform * (index < 7), s=voxels.shape)
    # shells 0 to 7 are 1 and the next 0: trapezoids of 7 whole shells and a half
    assert fsc_area(voxels, low) == pytest.approx(7.5 / 32, abs=1e-3)


def test_captured_variance_of_known_subspaces():
    """Unit vectors: rank 2 of three equal directions holds two thirds; other directions hold nothing."""
    maps = torch.zeros(7, 2, 2, 4)
    maps.view(7, -1)[torch.arange(7), torch.arange(7)] = 1.0
    maps[6] = 1e-6  # what is the same in all lists has a norm too
    spread = torch.tensor([[1.0, 1, 0, 0], [1, -1, 0, 0], [1, 0, 1, 0], [1, 0, -1, 0], [1, 0, 0, 1], [1, 0, 0, -1]])
    list_a = spread.reshape(6, 1, 2, 2)
    assert captured_variance(list_a, 2 * list_a, 3).recall == pytest.approx(100, abs=1e-3)
    found = captured_variance(list_a, list_a, 2)
    assert found.recall == found.precision == found.symmetric == pytest.approx(200 / 3, abs=1e-3)
    assert captured_variance(list_a, list_a, 2, "norm").recall == pytest.approx(100 * math.sqrt(2 / 3), abs=1e-3)


def test_recall_and_precision_differ(generator):
    """Two directions found of which one is true: all of the truth, half of the found."""
    base, right, wrong = torch.eye(3, 64).reshape(3, 4, 4, 4)
    truth = torch.stack([base + 0.3 * right, base - 0.3 * right])
    found = torch.stack([base + 0.3 * right, base - 0.3 * right, base + 0.3 * wrong, base - 0.3 * wrong])
    captured = captured_variance(found, truth, 2)
    assert captured.recall == pytest.approx(100, abs=1e-3)
    assert captured.precision == pytest.approx(50, abs=1e-3)
    assert captured_variance(base[None].repeat(4, 1, 1, 1), truth, 2).recall == pytest.approx(0, abs=1e-3)


def moved(generator: torch.Generator) -> tuple[Mixture, np.ndarray]:
    """Five Gaussians, each with its bead; the last two move by (3, 4, 0) Å a state."""
    center = 20 * noise(generator, 1, 5, 3).repeat(3, 1, 1)
    center[:, 3:] += torch.arange(3.0)[:, None, None] * torch.tensor([3.0, 4.0, 0.0])
    return Mixture(center, torch.ones(3, 5), torch.ones(3, 5)), center.double().numpy()


def test_motion_is_measured_in_angstrom(generator):
    mixture, truth = moved(generator)
    found = motion_error(mixture, truth, 0, near=1.0)
    assert found.error == pytest.approx(0, abs=1e-4)
    assert found.motion == pytest.approx(math.sqrt(2 / 5 * (25 + 100) / 2))
    still = Mixture(mixture.center[:1].expand(3, 5, 3), mixture.amplitude, mixture.width)
    assert motion_error(still, truth, 0, near=1.0).error == pytest.approx(found.motion)
    backwards = Mixture(2 * mixture.center[:1] - mixture.center, mixture.amplitude, mixture.width)
    assert motion_error(backwards, truth, 0, near=1.0).error == pytest.approx(2 * found.motion)


def test_what_vanishes_does_not_count(generator):
    mixture, truth = moved(generator)
    amplitude = mixture.amplitude.clone()
    amplitude[1:, 3:] = 0
    astray = mixture.center.clone()
    astray[1:, 3:] += 100
    found = motion_error(Mixture(astray, amplitude, mixture.width), truth, 0, near=1.0)
    assert found.error == pytest.approx(0, abs=1e-4)


def test_displacements_are_those_of_the_beads_nearby():
    center = np.array([[[0.0, 0, 0], [4, 0, 0], [30, 0, 0]], [[0.0, 2, 0], [4, 6, 0], [30, 0, 9]]])
    found = true_displacement(np.array([[2.0, 0, 0], [60.0, 0, 0]]), center, 0, near=3.0)
    assert np.allclose(found[1], [[0, 4, 0], [0, 0, 9]])  # the mean of two; the nearest where none is near
    assert np.allclose(found[0], 0)
