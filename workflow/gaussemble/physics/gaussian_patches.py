"""What `gaussian_loops` does, in plain torch for GPUs: every Gaussian's samples as one patch of the periodic grid.

Patches of a batch are as wide as its widest Gaussian needs and are made for so many Gaussians at a time that memory
stays bounded. On a CPU the loops are many times as quick; that these agree with them is tested there.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

SAMPLES = 1 << 25  # of all patches that are held at a time


class Patches(NamedTuple):
    """Some Gaussians' samples; `row` and `column` are the distances of samples from the centre along y and x."""

    gaussian: slice
    row: Float[Tensor, "image gaussian row"]
    column: Float[Tensor, "image gaussian column"]
    along_y: Float[Tensor, "image gaussian row"]  # exp(-row² / 2 width²)
    along_x: Float[Tensor, "image gaussian column"]
    sample: Int[Tensor, "image gaussian row column"]  # its index in the flattened grids


def patches(x: Tensor, y: Tensor, width: Tensor, size: int, cut: float) -> Iterator[Patches]:
    """All Gaussians' patches, some Gaussians at a time; lengths are in samples of the grid."""
    reach = math.ceil(cut * float(width.max())) if width.numel() else 1
    offset = torch.arange(1 - reach, reach + 1, device=x.device)
    first_sample = size * size * torch.arange(len(x), device=x.device)[:, None, None, None]
    step = max(1, SAMPLES // max(1, len(x) * len(offset) ** 2))
    for start in range(0, x.shape[1], step):
        some = slice(start, start + step)
        (column, left), (row, top) = (_distances(place[:, some], offset) for place in (x, y))
        half = (0.5 / width[:, some].square())[..., None]
        sample = first_sample + (top % size * size)[..., :, None] + (left % size)[..., None, :]
        yield Patches(some, row, column, torch.exp(-row.square() * half), torch.exp(-column.square() * half), sample)


def _distances(place: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of the samples round each place, and which samples they are."""
    sample = place.floor().long()[..., None] + offset
    return sample - place[..., None], sample


def add(
    x: Float[Tensor, "image gaussian"], y: Tensor, amplitude: Tensor, width: Tensor, size: int, cut: float
) -> Float[Tensor, "image y x"]:
    """Sums of Gaussians on periodic grids; positions and widths in samples, at least `cut` widths of each drawn."""
    grid = x.new_zeros(len(x) * size * size)
    height = amplitude / (2 * math.pi * width.square())
    for part in patches(x, y, width, size, cut):
        values = (height[:, part.gaussian, None] * part.along_y)[..., :, None] * part.along_x[..., None, :]
        grid.index_add_(0, part.sample.flatten(), values.flatten())
    return grid.reshape(len(x), size, size)


def gather(
    grid: Float[Tensor, "image y x"],
    x: Float[Tensor, "image gaussian"],
    y: Tensor,
    amplitude: Tensor,
    width: Tensor,
    cut: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives of `sum grid * add(...)` with respect to x, y, amplitude and width."""
    results = [torch.empty_like(x) for _ in range(4)]
    for part in patches(x, y, width, grid.shape[-1], cut):
        samples = grid.flatten()[part.sample]
        weights = part.along_y[..., None, :] * torch.stack([part.row**power for power in (0, 1, 2)], dim=-2)
        zeroth, first, second = (weights @ samples).unbind(-2)  # over rows; (image, gaussian, column) each
        total, moment_x = ((part.along_x * zeroth * part.column**power).sum(-1) for power in (0, 1))
        moment_y = (part.along_x * first).sum(-1)
        moment_r = (part.along_x * (zeroth * part.column.square() + second)).sum(-1)
        own = width[:, part.gaussian]
        half = 0.5 / own.square()
        norm = half / math.pi
        scale = 2 * amplitude[:, part.gaussian] * norm
        found = (
            scale * half * moment_x,
            scale * half * moment_y,
            norm * total,
            scale * (half * moment_r - total) / own,
        )
        for result, values in zip(results, found, strict=True):
            result[:, part.gaussian] = values
    by_x, by_y, by_amplitude, by_width = results
    return by_x, by_y, by_amplitude, by_width
