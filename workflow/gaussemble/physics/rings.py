"""Sums over Fourier rings (images) and shells (maps): correlation, power, resolution."""

from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from gaussemble.physics.fourier import to_fourier_3d


@lru_cache(maxsize=32)
def _radius_index(box: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Rounded radius in pixels of each half-transform coefficient, flat, and how often the full transform has it."""
    full = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    half = torch.fft.rfftfreq(box, 1 / box, dtype=torch.float64)
    axes = torch.meshgrid(*[full] * (dimensions - 1), half, indexing="ij")
    radius = torch.sqrt(sum((axis**2 for axis in axes), torch.zeros(())))
    index = (radius + 0.5).floor().long().clamp(max=box // 2 + 1)
    once = (half == 0) | (half == box / 2)
    counted = torch.where(once, 1.0, 2.0).expand(index.shape)
    return index.flatten(), counted.flatten().float()


def ring_index(box: int) -> Int[Tensor, "y half_x"]:
    """round(|k|) in pixels; the corners beyond box//2 share the index box//2 + 1, which the sums drop."""
    return _radius_index(box, 2)[0].reshape(box, box // 2 + 1)


def shell_index(box: int) -> Int[Tensor, "z y half_x"]:
    """round(|k|) in voxels of a map's half transform, as `ring_index`."""
    return _radius_index(box, 3)[0].reshape(box, box, box // 2 + 1)


def ring_multiplicity(box: int) -> Float[Tensor, "y half_x"]:
    """How often each half-transform coefficient stands in the full transform: 2, or 1 on the columns 0 and Nyquist."""
    return _radius_index(box, 2)[1].reshape(box, box // 2 + 1)


def ring_frequencies(box: int, pixel_size: float) -> Float[Tensor, " ring"]:
    """1/Å of the rings (equally shells) 0 to box//2."""
    return torch.arange(box // 2 + 1, dtype=torch.float64) / (box * pixel_size)


def _sums(values: Tensor, box: int, dimensions: int) -> Tensor:
    index, counted = (part.to(values.device) for part in _radius_index(box, dimensions))
    flat = values.flatten(start_dim=-dimensions) * counted.to(values.dtype)
    sums = flat.new_zeros(*flat.shape[:-1], box // 2 + 2)
    return sums.index_add_(-1, index, flat)[..., : box // 2 + 1]


def ring_sums(values: Float[Tensor, "*batch y half_x"], box: int) -> Float[Tensor, "*batch ring"]:
    """Sum over each ring of the full transform, rings 0 to box//2."""
    return _sums(values, box, 2)


def ring_means(values: Float[Tensor, "*batch y half_x"], box: int) -> Float[Tensor, "*batch ring"]:
    """Mean over each ring of the full transform."""
    return ring_sums(values, box) / ring_sums(torch.ones_like(values[..., :, :]), box)


def ring_correlation(
    a: Complex[Tensor, "*batch y half_x"], b: Complex[Tensor, "*batch y half_x"], box: int
) -> Float[Tensor, "*batch ring"]:
    """Fourier ring correlation of images given as half transforms; 0 where a ring is empty of power."""
    cross = ring_sums((a.conj() * b).real, box)
    power = ring_sums(a.abs().square(), box) * ring_sums(b.abs().square(), box)
    return cross / power.sqrt().clamp(min=torch.finfo(cross.dtype).tiny ** 0.5)


def spread(rings: Float[Tensor, "*batch ring"], box: int) -> Float[Tensor, "*batch y half_x"]:
    """A value per ring laid out on the half transform; 0 in the corners beyond the last ring."""
    padded = torch.cat([rings, rings.new_zeros(*rings.shape[:-1], 1)], dim=-1)
    return padded[..., ring_index(box).to(rings.device)]


def shell_correlation(a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"]) -> Float[Tensor, " ring"]:
    """Fourier shell correlation of two maps, shells 0 to box//2, in float64."""
    box = a.shape[-1]
    first, second = to_fourier_3d(a.double()), to_fourier_3d(b.double())
    cross = _sums((first.conj() * second).real, box, 3)
    power = _sums(first.abs().square(), box, 3) * _sums(second.abs().square(), box, 3)
    return cross / power.sqrt().clamp(min=1e-300)


def shell_means(values: Float[Tensor, "z y half_x"], box: int) -> Float[Tensor, " ring"]:
    """Mean over each shell of the full transform."""
    return _sums(values, box, 3) / _sums(torch.ones_like(values), box, 3)


def shell_power(voxels: Float[Tensor, "z y x"]) -> Float[Tensor, " ring"]:
    """Mean |F|² of a map in each shell."""
    return shell_means(to_fourier_3d(voxels).abs().square(), voxels.shape[-1])


def resolution(fsc: Float[Tensor, " ring"], frequency: Float[Tensor, " ring"], threshold: float) -> float:
    """Å where the curve first falls below the threshold, between rings by line; the last ring's if it never does."""
    below = torch.nonzero(fsc[1:] < threshold).flatten()
    if len(below) == 0:
        return 1 / float(frequency[-1])
    after = int(below[0]) + 1
    before = after - 1
    drop = float(fsc[before] - fsc[after])
    share = float(fsc[before] - threshold) / drop if before > 0 and drop > 0 else 1.0
    return 1 / float(frequency[before] + share * (frequency[after] - frequency[before]))
