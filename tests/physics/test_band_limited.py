"""Maps of mixtures up to Nyquist: the sampled Gaussians where these are wide, the projections where they are not."""

import pytest
import torch

from gaussemble.physics.band_limited import band_limited_map
from gaussemble.physics.fourier import to_fourier, to_fourier_3d
from gaussemble.physics.projection import mixture_to_map, project
from gaussemble.quantities import Mixture

PIXEL = 3.0


def mixture(width: float) -> Mixture:
    """Gaussians of one width near the middle, on no voxel's centre, in no symmetric order."""
    generator = torch.Generator().manual_seed(3)
    center = 8 * torch.randn(12, 3, generator=generator, dtype=torch.float64) + torch.tensor([5.3, -4.1, 2.2])
    amplitude = 0.5 + torch.rand(12, generator=generator, dtype=torch.float64)
    return Mixture(center, amplitude, torch.full((12,), width, dtype=torch.float64))


@pytest.mark.parametrize("box", [32, 33])
def test_wide_gaussians_are_what_sampling_gives(box):
    """Place, axes and scale: 1.4 voxels of width leave 1e-4 beyond Nyquist."""
    wide = mixture(1.4 * PIXEL)
    sampled = mixture_to_map(wide, box, PIXEL)
    found = band_limited_map(wide, box, PIXEL)
    assert float((found - sampled).abs().max() / sampled.max()) < 1e-3


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("width", [0.1, 3.0])
def test_its_projection_is_the_mixtures(box, width):
    """Exact below Nyquist, however narrow the Gaussians; nothing at an even box's Nyquist."""
    narrow = mixture(width)
    found = to_fourier(band_limited_map(narrow, box, PIXEL).sum(0))
    expected = project(narrow, torch.eye(3, dtype=torch.float64)[None], box, PIXEL)[0]
    last = (box - 1) // 2
    rows = torch.cat([torch.arange(last + 1), torch.arange(box - last, box)])
    difference = (found - expected)[rows, : last + 1]
    assert float(difference.abs().max() / narrow.amplitude.sum()) < 1e-10


def test_nothing_is_at_nyquist():
    transform = to_fourier_3d(band_limited_map(mixture(0.1), 32, PIXEL))
    assert float(transform[16].abs().max()) < 1e-10
    assert float(transform[..., 16].abs().max()) < 1e-10
    assert float(transform[0, 0, 0].real) == pytest.approx(float(mixture(0.1).amplitude.sum()))
