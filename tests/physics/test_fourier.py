"""Origin, scale and cropping of the transforms."""

import math

import pytest
import torch

from gaussemble.physics.fourier import (
    band_box,
    fourier_crop,
    frequencies,
    to_fourier,
    to_fourier_3d,
    to_real,
    to_real_3d,
)


@pytest.mark.parametrize("box", [8, 9])
def test_a_point_at_the_origin_has_a_flat_transform(box):
    image = torch.zeros(box, box)
    image[box // 2, box // 2] = 3.0
    assert torch.allclose(to_fourier(image), torch.full((box, box // 2 + 1), 3.0 + 0j))
    voxels = torch.zeros(box, box, box)
    voxels[box // 2, box // 2, box // 2] = 2.0
    assert torch.allclose(to_fourier_3d(voxels), torch.full((box, box, box // 2 + 1), 2.0 + 0j))


@pytest.mark.parametrize("box", [8, 9])
def test_a_point_off_the_origin_has_the_definition_s_phases(box):
    image = torch.zeros(box, box)
    image[box // 2 + 2, box // 2 - 1] = 1.0  # at x = -1, y = +2 pixels of 1.5 Å
    frequency = frequencies(box, 1.5)
    expected = torch.exp(-2j * math.pi * (frequency[..., 0] * -1.5 + frequency[..., 1] * 3.0))
    assert torch.allclose(to_fourier(image), expected, atol=1e-5)


@pytest.mark.parametrize("box", [8, 9])
def test_there_and_back(generator, box):
    image = torch.randn(2, box, box, generator=generator)
    assert torch.allclose(to_real(to_fourier(image), box), image, atol=1e-6)
    voxels = torch.randn(box, box, box, generator=generator)
    assert torch.allclose(to_real_3d(to_fourier_3d(voxels), box), voxels, atol=1e-6)


@pytest.mark.parametrize(("large", "small"), [(64, 32), (64, 33), (65, 32), (65, 33)])
def test_cropping_resamples_a_smooth_image_where_it_stands(large, small):
    def gaussian(box):
        """Width 16 Å at (7, -5) Å in a field of 260 Å: exp(-2 pi² 16² / 16²) = 3e-9 at the Nyquist."""
        grid = (torch.arange(box, dtype=torch.float64) - box // 2) * 260 / box
        return torch.exp(-((grid[None, :] - 7) ** 2 + (grid[:, None] + 5) ** 2) / (2 * 16.0**2))

    assert torch.allclose(fourier_crop(gaussian(large), small), gaussian(small), atol=1e-6)


def test_the_band_reaches_its_resolution():
    for resolution in (9.0, 12.0, 16.0, 20.5):
        box = band_box(64, 4.0, resolution)
        nyquist_ring = box // 2 - 1  # the last ring with no coefficient at Nyquist
        assert 64 * 4.0 / nyquist_ring <= resolution
    assert band_box(64, 4.0, 2.0) == 64
