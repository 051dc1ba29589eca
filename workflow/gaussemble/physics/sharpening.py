"""Filters of a finished map, shell by shell: low-pass to its resolution, and sharpening by a B-factor or locally.

Sharpening by a B-factor is Rosenthal & Henderson's (2003), as relion_postprocess does it: shells are weighted by
sqrt(2 FSC / (1 + FSC)), what the map correlates with the truth; the slope of ln |F| over k² between 10 Å and the
resolution (Guinier's plot) is taken out; nothing is left beyond the resolution. Local sharpening evens out amplitudes
by bands, where the map is above its own noise; it has no model.
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
BANDS = 1.5  # of local sharpening: each band ends at so many times the frequency where it begins
NEIGHBOURHOOD = 1.5  # of a band's longest wave, standard deviation of the window in which amplitudes are taken
MOST = 10.0  # by which local sharpening lifts at most


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


def locally_sharpened(
    weighted: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"], pixel_size: float, resolution: float
) -> Float[Tensor, "z y x"]:
    """The map with amplitudes evened out within each band of frequencies, wherever they are above its noise.

    A band's amplitude near x is the root mean square of the band within a Gaussian window, a² = signal + noise, the
    noise being its mean outside the mask. The band is multiplied by `(1 - noise / a²) A / a`, A the mask's mean: a
    flexible part is lifted as far as it is seen, and noise is left out where nothing else is.
    """
    box = weighted.shape[-1]
    result = torch.zeros_like(weighted)
    last = box * pixel_size / resolution
    first = 1.0
    while first < last:
        end = min(first * BANDS, last)
        band = filtered(weighted, _band_gain(box, first, end))
        squared = _windowed(band.square(), NEIGHBOURHOOD * box / first)
        noise = (squared * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1e-6)
        level = (squared * mask).sum() / mask.sum()
        signal = (1 - noise / squared.clamp(min=1e-30)).clamp(min=0)
        result += band * signal * (level / squared.clamp(min=1e-30)).sqrt().clamp(max=MOST)
        first = end
    return result


def _band_gain(box: int, first: float, end: float) -> Float[Tensor, " ring"]:
    """Rings from `first` (the lowest band has all below) to before `end`: bands add up to 1."""
    ring = torch.arange(box // 2 + 1.0)
    return ((ring >= (0 if first == 1 else first)) & (ring < end)).float()


def _windowed(values: Float[Tensor, "z y x"], deviation: float) -> Float[Tensor, "z y x"]:
    """Mean within a Gaussian window, its standard deviation in voxels; never negative."""
    box = values.shape[-1]
    y, x = torch.fft.fftfreq(box), torch.fft.rfftfreq(box)
    squared = y[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    window = torch.exp(-2 * math.pi**2 * deviation**2 * squared)
    return to_real_3d(to_fourier_3d(values) * window, box).clamp(min=0)
