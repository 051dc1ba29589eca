"""Origin, scale and cropping of the transforms."""

import math

import pytest
import torch

from gaussemble.physics.fourier import (
    band_box,
    fourier_crop,
    frequencies,
    resample,
    resample_3d,
    resampling,
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


def _gaussian(box: int, pixel_size: float, width: float = 12.0) -> torch.Tensor:
    """Of this width in Å, at (7, -5) Å."""
    grid = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_size
    return torch.exp(-((grid[None, :] - 7) ** 2 + (grid[:, None] + 5) ** 2) / (2 * width**2))


@pytest.mark.parametrize(("large", "small"), [(64, 32), (64, 33), (65, 32), (65, 33), (64, 63)])
def test_resampling_over_the_same_field_is_cropping(generator, large, small):
    """White noise has everything up to the Nyquist."""
    image = torch.randn(2, large, large, generator=generator)
    assert torch.allclose(resample(image, 1.3, small, 1.3 * large / small), fourier_crop(image, small), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "box", "pixel_size"), [(100, 40, 4.1), (101, 40, 4.1), (100, 41, 4.3), (101, 61, 2.9)]
)
def test_resampling_takes_any_pixel_size_and_a_part_of_the_field(size, box, pixel_size):
    """At these pixels the Gaussian's transform is down to exp(-2 pi² 12² / 8.6²) at the Nyquist, and so is its tail."""
    found = resample(_gaussian(size, 2.0), 2.0, box, pixel_size)
    assert torch.allclose(found, _gaussian(box, pixel_size), atol=1e-4)


def test_at_the_same_pixel_size_resampling_takes_the_middle(generator):
    image = torch.randn(20, 20, generator=generator)
    assert torch.allclose(resample(image, 1.5, 12, 1.5), image[4:16, 4:16], atol=1e-5)
    assert torch.allclose(resample(image, 1.5, 13, 1.5), image[4:17, 4:17], atol=1e-5)


def test_resampling_leaves_out_what_the_new_pixels_cannot_hold():
    """A wave of 5 Å on pixels of 2 Å is none on pixels of 3 Å; one of 10 Å stays."""
    x = torch.arange(60) * 2.0
    for period, expected in ((5.0, 0.0), (10.0, 1.0)):
        wave = torch.cos(2 * math.pi * x / period).expand(60, 60)
        assert float(resample(wave, 2.0, 40, 3.0).abs().max()) == pytest.approx(expected, abs=1e-5)


def test_maps_are_resampled_as_images_are(generator):
    voxels = torch.randn(12, 12, 12, generator=generator)
    found = resample_3d(voxels, 1.0, 8, 1.5).sum(0)
    rows = resampling(12, 1.0, 8, 1.5).sum(0)
    assert torch.allclose(found, resample(torch.einsum("z,zyx->yx", rows, voxels), 1.0, 8, 1.5), atol=1e-5)


def test_samples_beyond_the_field_are_zero():
    assert float(resample(torch.ones(8, 8), 1.0, 16, 1.0).sum()) == pytest.approx(64, abs=1e-4)
