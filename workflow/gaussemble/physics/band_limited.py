"""Maps of Gaussian mixtures without what a voxel grid cannot hold.

`projection.mixture_to_map` samples the Gaussians at the voxels' centres, which folds what lies beyond Nyquist back into
the band; here the mixture's own transform is cut off at Nyquist, as its projections are.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gaussemble.physics.fourier import axis_frequencies, to_real_3d
from gaussemble.quantities import Mixture


def band_limited_map(mixture: Mixture, box: int, pixel_size: float) -> Float[Tensor, "box box box"]:
    """Density of one mixture with the frequencies below Nyquist along each axis, in voxel values.

    The transform is a product of three factors for each Gaussian, summed plane by plane.
    """
    full, half = axis_frequencies(box, pixel_size, mixture.center.dtype, mixture.center.device)
    x, y, z = mixture.center.unbind(-1)
    factor_x = _factor(x, mixture.width, half, pixel_size)
    factor_y = _factor(y, mixture.width, full, pixel_size)
    factor_z = _factor(z, mixture.width, full, pixel_size) * mixture.amplitude[:, None]
    planes = [(plane[:, None] * factor_y).mT @ factor_x for plane in factor_z.unbind(-1)]
    return to_real_3d(torch.stack(planes), box)


def _factor(
    position: Float[Tensor, " gaussian"],
    width: Float[Tensor, " gaussian"],
    frequency: Float[Tensor, " k"],
    pixel_size: float,
) -> Complex[Tensor, "gaussian k"]:
    """`exp(-2 pi² s² k²) exp(-2 pi i k x)`; 0 at an even box's Nyquist, which stands for two frequencies."""
    inside = frequency.abs() * 2 * pixel_size < 1 - 1e-6
    magnitude = torch.exp((-2 * math.pi**2 * width.square())[:, None] * frequency.square()) * inside
    angle = -2 * math.pi * position[:, None] * frequency
    return torch.complex(magnitude * angle.cos(), magnitude * angle.sin())
