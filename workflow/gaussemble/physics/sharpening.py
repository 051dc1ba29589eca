"""Filters of a finished map, shell by shell: low-pass to its resolution, and sharpening by a B-factor.

Sharpening by a B-factor is Rosenthal & Henderson's (2003), as relion_postprocess does it: shells are weighted by
sqrt(2 FSC / (1 + FSC)), what the map correlates with the truth; the slope of ln |F| over k² between 10 Å and the
resolution (Guinier's plot) is taken out; nothing is left beyond the resolution. Not here: sharpening that differs from
place to place (LocScale, LocSpiral, DeepEMhancer), for which unfiltered.mrc and the half-maps are there.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.rings import ring_frequencies, shell_index, shell_means

EDGE = 2  # rings over which a low-pass filter falls (relion_postprocess's)
GUINIER_FROM = 10.0  # Å; below, the molecule's shape and not its decay makes the amplitudes (Rosenthal & Henderson)
GUINIER_SHELLS = 5  # at least, through which a line is fitted


@dataclass(frozen=True)
class Guinier:
    """A line through ln |F| over k²."""

    b_factor: float  # Å²; negative: what takes the decay out, in RELION's sign
    correlation: float  # of the line


def filtered(voxels: Float[Tensor, "z y x"], gain: Float[Tensor, " ring"]) -> Float[Tensor, "z y x"]:
    """A map with each shell multiplied; 0 in the corners beyond the last."""
    box = voxels.shape[-1]
    spread = torch.cat([gain.float(), torch.zeros(1)])[shell_index(box)]
    return to_real_3d(to_fourier_3d(voxels) * spread, box)


def low_pass_gain(box: int, pixel_size: float, resolution: float) -> Float[Tensor, " ring"]:
    """1 up to a resolution in Å, then falling to 0 over two rings as a raised cosine."""
    place = (torch.arange(box // 2 + 1) - box * pixel_size / resolution) / EDGE
    return 0.5 + 0.5 * torch.cos(math.pi * place.clamp(0, 1))


def correlation_gain(fsc: Float[Tensor, " ring"]) -> Float[Tensor, " ring"]:
    """What the mean of two half-maps correlates with the truth, sqrt(2 FSC / (1 + FSC)), by their FSC."""
    fsc = fsc.float().clamp(0, 1)
    return (2 * fsc / (1 + fsc)).sqrt()


def guinier(weighted: Float[Tensor, "z y x"], pixel_size: float, resolution: float) -> Guinier | None:
    """The decay of a map whose shells are weighted, between 10 Å and its resolution; None: too few shells for that."""
    box = weighted.shape[-1]
    frequency = ring_frequencies(box, pixel_size)
    amplitude = shell_means(to_fourier_3d(weighted).abs(), box).double()
    chosen = (frequency >= 1 / GUINIER_FROM) & (frequency <= 1 / resolution) & (amplitude > 0)
    if int(chosen.sum()) < GUINIER_SHELLS:
        return None
    pair = torch.stack([frequency[chosen].square(), amplitude[chosen].log()])
    covariance = torch.cov(pair)
    return Guinier(4 * float(covariance[0, 1] / covariance[0, 0]), float(torch.corrcoef(pair)[0, 1]))


def b_factor_gain(box: int, pixel_size: float, b_factor: float) -> Float[Tensor, " ring"]:
    """exp(-B k² / 4)."""
    return torch.exp(-b_factor / 4 * ring_frequencies(box, pixel_size).square()).float()
