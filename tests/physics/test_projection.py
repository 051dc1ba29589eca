"""Projections against the analytic image, a numerical integral of the map, and finite differences."""

import math

import pytest
import torch

from gaussemble.physics.fourier import crop_transform, to_fourier, to_real
from gaussemble.physics.projection import mixture_to_map, project, project_tangents, shift_phases
from gaussemble.physics.rotations import random_rotations
from gaussemble.quantities import Mixture


@pytest.fixture
def mixture() -> Mixture:
    """Three unlike Gaussians at sub-pixel positions, none on an axis, wide enough (1.8 px) not to alias."""
    center = torch.tensor([[7.3, -2.1, 4.4], [-9.2, 5.6, 1.3], [1.7, 11.4, -8.9]], dtype=torch.float64)
    amplitude = torch.tensor([2.0, 5.0, 3.0], dtype=torch.float64)
    width = torch.tensor([3.6, 4.1, 3.8], dtype=torch.float64)
    return Mixture(center, amplitude, width)


def analytic_image(mixture: Mixture, rotation: torch.Tensor, box: int, pixel_size: float) -> torch.Tensor:
    """Sum over Gaussians of a pixel² N2((x, y); (R c)_xy, s), sampled at pixel centres."""
    grid = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_size
    image = torch.zeros(box, box, dtype=torch.float64)
    for center, amplitude, width in zip(mixture.center @ rotation.T, mixture.amplitude, mixture.width, strict=True):
        along_x = torch.exp(-0.5 * ((grid - center[0]) / width) ** 2)
        along_y = torch.exp(-0.5 * ((grid - center[1]) / width) ** 2)
        image += amplitude * pixel_size**2 / (2 * math.pi * width**2) * along_y[:, None] * along_x[None, :]
    return image


@pytest.mark.parametrize("box", [40, 41])
def test_projection_is_the_analytic_image(mixture, generator, box):
    rotation = random_rotations(4, generator)
    images = to_real(project(mixture, rotation, box, 2.0), box)
    for image, matrix in zip(images, rotation, strict=True):
        expected = analytic_image(mixture, matrix, box, 2.0)
        # 1.8 px wide: aliasing beyond Nyquist is exp(-2 pi² 1.8² / 4) = 1e-7 of the amplitude
        assert torch.allclose(image, expected, atol=1e-6 * float(expected.max()))


def test_float32_agrees_with_float64(mixture, generator):
    rotation = random_rotations(4, generator)
    exact = project(mixture, rotation, 40, 2.0)
    single = project(mixture.to(torch.float32), rotation.float(), 40, 2.0)
    assert (single - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("box", [40, 41])
def test_projection_integrates_the_map_along_z(mixture, box):
    voxels = mixture_to_map(mixture, box, 2.0)
    image = to_real(project(mixture, torch.eye(3, dtype=torch.float64)[None], box, 2.0), box)[0]
    assert torch.allclose(voxels.sum(0), image, atol=1e-6 * float(image.max()))
    assert float(voxels.sum()) == pytest.approx(float(mixture.amplitude.sum()), rel=1e-6)


def test_a_rotated_mixture_is_the_mixture_seen_from_there(mixture, generator):
    first, second = random_rotations(2, generator)
    turned = Mixture(mixture.center @ first.T, mixture.amplitude, mixture.width)
    seen = project(turned, second[None], 40, 2.0)
    assert torch.allclose(seen, project(mixture, (second @ first)[None], 40, 2.0), atol=1e-10)


def test_shift_moves_the_image_against_it(mixture):
    identity = torch.eye(3, dtype=torch.float64)[None]
    shift = torch.tensor([[3.0, -5.0]], dtype=torch.float64)
    shown = project(mixture, identity, 40, 2.0) * shift_phases(shift, 40, 2.0)
    moved = Mixture(mixture.center - torch.tensor([3.0, -5.0, 0.0]).double(), mixture.amplitude, mixture.width)
    assert torch.allclose(to_real(shown, 40), to_real(project(moved, identity, 40, 2.0), 40), atol=1e-6)


def test_a_band_is_the_low_frequencies_of_the_whole(mixture, generator):
    rotation = random_rotations(3, generator)
    whole = project(mixture, rotation, 40, 2.0)
    band = project(mixture, rotation, 20, 4.0)
    cropped = crop_transform(whole, 20)
    inside = torch.ones(20, 11, dtype=torch.bool)
    inside[10, :], inside[:, 10] = False, False  # the band's Nyquist stands for two frequencies
    assert torch.allclose(band[:, inside], cropped[:, inside], atol=1e-12)


def test_each_image_may_have_its_own_mixture(mixture, generator):
    rotation = random_rotations(2, generator)
    other = Mixture(mixture.center + 1.0, mixture.amplitude * 2, mixture.width + 0.1)
    both = Mixture(
        torch.stack([mixture.center, other.center]),
        torch.stack([mixture.amplitude, other.amplitude]),
        torch.stack([mixture.width, other.width]),
    )
    together = project(both, rotation, 40, 2.0)
    assert torch.allclose(together[0], project(mixture, rotation[:1], 40, 2.0)[0])
    assert torch.allclose(together[1], project(other, rotation[1:], 40, 2.0)[0])


@pytest.mark.parametrize("box", [8, 9])
def test_gradients_by_finite_differences(mixture, generator, box):
    rotation = random_rotations(2, generator).requires_grad_()
    target = torch.randn(2, box, box // 2 + 1, generator=generator, dtype=torch.complex128)

    def loss(center, amplitude, width, rotation):
        return (project(Mixture(center, amplitude, width), rotation, box, 6.0) - target).abs().square().sum()

    parts = [part.clone().requires_grad_() for part in (mixture.center, mixture.amplitude, mixture.width)]
    assert torch.autograd.gradcheck(loss, (*parts, rotation))


def test_nothing_is_written_to_the_arguments(mixture, generator):
    rotation = random_rotations(2, generator)
    before = [part.clone() for part in (mixture.center, mixture.amplitude, mixture.width, rotation)]
    first = project(mixture, rotation, 16, 4.0)
    assert torch.equal(first, project(mixture, rotation, 16, 4.0))
    after = (mixture.center, mixture.amplitude, mixture.width, rotation)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_transform_of_the_projection_is_the_transform(mixture):
    identity = torch.eye(3, dtype=torch.float64)[None]
    image = analytic_image(mixture, identity[0], 40, 2.0)
    assert torch.allclose(to_fourier(image), project(mixture, identity, 40, 2.0)[0], atol=1e-5)


def test_tangent_is_the_difference_quotient(mixture, generator):
    rotation = random_rotations(2, generator)
    batch = Mixture(*(part.expand(2, *part.shape) for part in (mixture.center, mixture.amplitude, mixture.width)))
    tangent = Mixture(
        *(
            torch.randn(part.shape, generator=generator, dtype=torch.float64)
            for part in (batch.center, batch.amplitude, batch.width)
        )
    )

    def moved(step):
        parts = ((batch.center, tangent.center), (batch.amplitude, tangent.amplitude), (batch.width, tangent.width))
        return project(Mixture(*(part + step * change for part, change in parts)), rotation, 20, 3.0)

    quotient = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert torch.allclose(project_tangents(batch, [tangent], rotation, 20, 3.0)[:, 0], quotient, atol=1e-7)
