"""From images as they are in the stacks to images as they are stored: on the working grid, normalised, whitened."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.prepare.grid import Grid

ENOUGH_SPREAD = 0.01  # variance over squared mean: float32 then has the deviation to 1e-4 and better
REASONS = ("a pixel is NaN or infinite", "all pixels are equal", "its background is constant (masked?)")


def background(box: int, radius: float) -> Bool[Tensor, "y x"]:
    """True outside the circle of this fraction of half the box, round pixel D//2."""
    axis = torch.arange(box) - box // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 > (radius * box / 2) ** 2


def normalised(images: Float[Tensor, "image y x"], outside: Bool[Tensor, "y x"]) -> Float[Tensor, "image y x"]:
    """Images whose background has mean 0 and standard deviation 1; NaN where it is constant."""
    values = images.flatten(1)
    weights = outside.flatten().to(values) / outside.sum()
    values = values - values.mean(dim=1, keepdim=True)  # so that float32 is enough for what follows
    values = values - (values @ weights)[:, None]
    squares = values.square()
    deviation, whole = (squares @ weights).sqrt(), squares.mean(dim=1).sqrt()
    deviation = torch.where(deviation > 1e-6 * whole, deviation, torch.nan)
    return (values / deviation[:, None]).view_as(images)


class Prepared(NamedTuple):
    """Some images, ready to be stored."""

    images: Float[Tensor, "image box box"]
    reasons: np.ndarray  # (image,) why one is unusable, empty where it is not
    statistics: Float[np.ndarray, "image 2"]  # mean and standard deviation of each on the working grid, as it came


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a split."""

    grid: Grid
    sign: int  # -1: the contrast is reversed
    outside: Bool[Tensor, "y x"] | None  # the background that is normalised, None: it is not
    gain: Float[Tensor, "y half_x"] | None = None  # of the whitening filter

    def __call__(self, raw: Float[np.ndarray, "image y x"], kind: int) -> Prepared:
        """Images of one kind as they are stored."""
        stored = self.grid.place(torch.from_numpy(raw), kind)
        statistics, finite, constant = described(stored, raw)
        if self.sign == -1:
            stored = -stored
        if self.gain is not None:
            stored = filtered(stored, self.gain)
        if self.outside is not None:
            stored = normalised(stored, self.outside)
        flat = ~np.isfinite(stored.flatten(1).sum(1).numpy())
        return Prepared(stored, np.select([~finite, constant, flat], REASONS, ""), statistics)


def described(
    stored: Float[Tensor, "image box box"], raw: Float[np.ndarray, "image y x"]
) -> tuple[Float[np.ndarray, "image 2"], Bool[np.ndarray, " image"], Bool[np.ndarray, " image"]]:
    """Mean and standard deviation of each image on its grid; whether its raw pixels are finite; whether all are equal.

    A pixel that is not finite spoils all of the image's samples on the grid, and two sums in float32 tell all of an
    image whose mean is not far beyond its spread; the others are looked at closely.
    """
    samples = stored.flatten(1)
    mean = samples.mean(dim=1).numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        variance = samples.norm(dim=1).numpy() ** 2 / samples.shape[1] - mean**2
        finite = np.isfinite(variance) & (variance > ENOUGH_SPREAD * mean**2)
        statistics = np.stack([mean, np.sqrt(np.where(finite, variance, 0))], axis=1)
    constant = np.zeros(len(raw), bool)
    for image in np.flatnonzero(~finite):
        exact = samples[image].double().numpy()
        finite[image] = np.isfinite(raw[image]).all() and np.isfinite(exact).all()
        constant[image] = raw[image].max() == raw[image].min()
        statistics[image] = (exact.mean(), exact.std()) if finite[image] else np.nan
    return statistics, finite, constant


def filtered(images: Float[Tensor, "image y x"], gain: Float[Tensor, "y half_x"]) -> Float[Tensor, "image y x"]:
    """Images with each Fourier coefficient multiplied."""
    return to_real(to_fourier(images) * gain, images.shape[-1])
