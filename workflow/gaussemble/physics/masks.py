"""Soft masks round the molecule in a density map, and the curves measured inside them.

Made from the map alone; a mask of a chosen region is the user's (`relion_mask_create`, ChimeraX).
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.rings import shell_correlation, shell_index

SIGMAS = 3.0  # above the background's mean: what noise lifts there falls in crumbs beside the largest body
# Share of the highest density that is still molecule: low-passed surfaces stand at a half, small domains that a few
# particles have, or that move far, at a twentieth. What is not in the mask gets no Gaussians, and is not found later.
LEAST = 0.05
# A part beside the largest counts where it is not a crumb of noise: it has so many of the largest's voxels, and is so
# many standard deviations of the background high somewhere (of ten thousand places of noise the highest has 4)
PART, PART_SIGMAS = 0.01, 6.0


def low_pass(voxels: Float[Tensor, "z y x"], pixel_size: float, resolution: float) -> Float[Tensor, "z y x"]:
    """Gaussian filter that halves the amplitude at `resolution` Å."""
    box = voxels.shape[-1]
    full, half = torch.fft.fftfreq(box, pixel_size), torch.fft.rfftfreq(box, pixel_size)
    squared = full[:, None, None] ** 2 + full[:, None] ** 2 + half**2
    return to_real_3d(to_fourier_3d(voxels) * torch.exp(-math.log(2) * squared * resolution**2), box)


def background(values: Float[np.ndarray, " value"]) -> tuple[float, float]:
    """Mean and standard deviation of what is left when values beyond 3 of these are left out again and again.

    Right where the molecule fills less than about half of the values.
    """
    mean, deviation = float(np.median(values)), float(values.std())
    for _ in range(100):
        kept = values[np.abs(values - mean) <= 3 * deviation]
        last = deviation
        mean, deviation = float(kept.mean()), float(kept.std())
        if deviation > 0.999 * last:
            break
    return mean, deviation


def within_sphere(box: int) -> Bool[np.ndarray, "z y x"]:
    """The voxels that projections from all sides have seen: |x| < box/2 from the origin, a voxel to spare."""
    axis = np.arange(box) - box // 2
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (box / 2 - 1) ** 2


def _distance_to(body: Bool[np.ndarray, "z y x"]) -> Float[np.ndarray, "z y x"]:
    """Voxels from each voxel to the nearest of the body."""
    return np.asarray(ndimage.distance_transform_edt(~body))


def find_threshold(smooth: Float[np.ndarray, "z y x"]) -> float:
    """Density above which a low-passed map is molecule.

    The background's mean plus 3 standard deviations, or a twentieth of the way from there up to the highest density
    (99.9 % of the voxels) where that is higher, as it is in a clean map.
    """
    values = smooth[within_sphere(smooth.shape[-1])]
    mean, deviation = background(values)
    return mean + max(SIGMAS * deviation, LEAST * (float(np.quantile(values, 0.999)) - mean))


def parts_of_molecule(body: Bool[np.ndarray, "z y x"], smooth: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """The largest connected part, and those beside it that are no crumbs: a domain whose linker is not seen."""
    labels: Any = ndimage.label(body)[0]  # type: ignore[index]
    sizes = np.bincount(labels.ravel())
    if len(sizes) == 1:
        return body
    sizes[0] = 0
    mean, deviation = background(smooth[within_sphere(smooth.shape[-1])])
    highest = np.asarray(ndimage.maximum(smooth, labels, np.arange(len(sizes))))
    sound = (sizes >= PART * sizes.max()) & (highest >= mean + PART_SIGMAS * deviation)
    sound[sizes.argmax()] = True
    return sound[labels]


def soften(body: Bool[np.ndarray, "z y x"], extend: float, edge: float) -> Float[Tensor, "z y x"]:
    """1 within `extend` voxels of the body, then falling to 0 over `edge` voxels as a raised cosine."""
    ramp = np.clip((_distance_to(body) - extend) / max(edge, 1e-6), 0, 1)
    return torch.from_numpy((0.5 + 0.5 * np.cos(np.pi * ramp)).astype(np.float32))


def soft_mask(
    voxels: Float[Tensor, "z y x"],
    pixel_size: float,
    resolution: float = 15.0,
    threshold: float | None = None,
    extend: float = 6.0,
    edge: float = 12.0,
) -> Float[Tensor, "z y x"]:
    """Mask of the molecule, from 0 to 1: the largest connected body of density, and sound parts beside it.

    Args:
        voxels: density, molecule positive.
        pixel_size: Å.
        resolution: Å, of the low-pass filter before thresholding; never finer than three pixels.
        threshold: density of the filtered map; found from the background if None.
        extend: Å by which the body grows before the edge starts.
        edge: Å, width of the cosine edge; never less than three pixels, a sharp edge correlates half-maps by itself.

    Raises:
        ValueError: nothing lies above the threshold.
    """
    smooth = low_pass(voxels, pixel_size, max(resolution, 3 * pixel_size)).numpy()
    if threshold is None:
        threshold = find_threshold(smooth)
    body = parts_of_molecule((smooth > threshold) & within_sphere(smooth.shape[-1]), smooth)
    if not body.any():
        raise ValueError(f"no density above {threshold:.4g}; the highest is {float(smooth.max()):.4g}")
    return soften(body, extend / pixel_size, max(edge / pixel_size, 3.0))


def masked_correlation(
    a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"]
) -> Float[Tensor, " ring"]:
    """Fourier shell correlation of two maps inside a mask; a soft edge keeps what the mask itself adds small."""
    return shell_correlation(a * mask, b * mask)


RANDOMISED_BELOW = 0.8  # unmasked FSC where phases begin to be random, and shells more until the correction (RELION's)
CORRECTED_AFTER = 2


def randomised_phases(voxels: Float[Tensor, "z y x"], first: int, generator: torch.Generator) -> Float[Tensor, "z y x"]:
    """The map with random phases from shell `first` on, amplitudes kept: no two such maps share a signal there."""
    transform = to_fourier_3d(voxels)
    noise = to_fourier_3d(torch.randn(voxels.shape, generator=generator))  # of a real map, as phases must be
    beyond = shell_index(voxels.shape[-1]) >= first
    return to_real_3d(
        torch.where(beyond, transform.abs() * noise / noise.abs().clamp(min=1e-30), transform), voxels.shape[-1]
    )


def corrected_correlation(
    half1: Float[Tensor, "z y x"],
    half2: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z y x"],
    fsc: Float[Tensor, " ring"],
    masked: Float[Tensor, " ring"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, " ring"], Float[Tensor, " ring"]]:
    """Masked correlation of half-maps with random phases, and `(masked - random) / (1 - random)` (Chen et al. 2013).

    Phases are random from the shell where the unmasked `fsc` falls below 0.8; the correction begins two shells later,
    where what is kept no longer leaks in. Where it never falls there is nothing to correct.
    """
    below = (fsc[1:] < RANDOMISED_BELOW).nonzero().flatten()
    if not len(below):
        return masked, masked
    first = int(below[0]) + 1
    noise1, noise2 = (randomised_phases(half, first, generator) for half in (half1, half2))
    randomised = masked_correlation(noise1, noise2, mask).to(masked.dtype)
    corrected = (masked - randomised) / (1 - randomised).clamp(min=1e-6)
    return randomised, torch.where(torch.arange(len(fsc)) < first + CORRECTED_AFTER, masked, corrected)
