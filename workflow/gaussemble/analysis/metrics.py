"""Comparing maps: weighted correlation, what chance gives, low-pass, matching. Numbers, no verdicts."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gaussemble.physics.fourier import to_fourier_3d, to_real_3d
from gaussemble.physics.rings import shell_power

VOXELS = (-3, -2, -1)


def correlation(
    a: Float[Tensor, "*batch z y x"], b: Float[Tensor, "*batch z y x"], weight: Float[Tensor, "z y x"]
) -> Float[Tensor, "*batch"]:
    """Pearson correlation of two maps' voxels under a weight; 0 where one of them is constant there."""
    share = weight.double() / weight.double().sum()
    a, b = _centered(a.double(), share), _centered(b.double(), share)
    spread = ((share * a * a).sum(VOXELS) * (share * b * b).sum(VOXELS)).sqrt()
    return torch.where(spread > 0, (share * a * b).sum(VOXELS) / spread.clamp(min=1e-300), 0.0)


def _centered(values: Tensor, share: Tensor) -> Tensor:
    """Values minus their weighted mean; 0 where no more than rounding is left."""
    centered = values - (share * values).sum(VOXELS, keepdim=True)
    size, left = ((share * each.square()).sum(VOXELS, keepdim=True) for each in (values, centered))
    return torch.where(left > 1e-18 * size, centered, 0.0)


def correlation_matrix(
    first: Float[Tensor, "row z y x"], second: Float[Tensor, "column z y x"], weight: Float[Tensor, "z y x"]
) -> Float[np.ndarray, "row column"]:
    """Correlation of every map of one list with every map of the other."""
    rows = [correlation(each.expand_as(second), second, weight) for each in first]
    return torch.stack(rows).numpy()


def band_limited(voxels: Float[Tensor, "*batch z y x"], pixel_size: float, resolution: float) -> Tensor:
    """Maps without what is finer than `resolution` Å; the edge is a raised cosine over two shells."""
    box = voxels.shape[-1]
    full, half = (grid(box, 1 / box, dtype=torch.float64) for grid in (torch.fft.fftfreq, torch.fft.rfftfreq))
    radius = torch.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2)
    step = (radius - box * pixel_size / resolution) / 2
    pass_band = 0.5 + 0.5 * torch.cos(torch.pi * (step + 0.5).clamp(0, 1))
    return to_real_3d(to_fourier_3d(voxels) * pass_band.to(voxels.dtype), box)


def independent_values(voxels: Float[Tensor, "z y x"], weight: Float[Tensor, "z y x"]) -> float:
    """How many independent numbers a random map of this power spectrum holds under a weight.

    Two unrelated random maps of power P(k) have a correlation of mean 0 and variance 1 / n with
    `n = (sum P)² / (sum P²) * (sum w)² / (sum w²) / voxels`: modes that share the power, times the part of the box.
    """
    box = voxels.shape[-1]
    power = shell_power(voxels.double() * weight.double())
    axis = torch.fft.fftfreq(box, 1 / box)
    radius = torch.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    count = torch.bincount((radius + 0.5).floor().long().flatten(), minlength=len(power))[: len(power)].double()
    modes = (count * power).sum() ** 2 / (count * power**2).sum()
    part = weight.double().sum() ** 2 / weight.double().square().sum() / box**3
    return float(modes * part)


def match(score: Float[np.ndarray, "row column"]) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Rows and columns paired one to one so that the sum of their scores is the greatest (Kuhn 1955)."""
    rows, columns = linear_sum_assignment(score, maximize=True)
    return np.asarray(rows), np.asarray(columns)


def runner_up(score: Float[np.ndarray, "row column"], row: int, column: int) -> float:
    """The best score that the pair's partners have with anyone else; -inf where there is nobody else."""
    others = np.concatenate([np.delete(score[row], column), np.delete(score[:, column], row)])
    return float(others.max()) if len(others) else -np.inf
