"""From images as they are in the stacks to images as they are stored: on the working grid, normalised, whitened."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussemble.physics.fourier import to_fourier, to_real
from gaussemble.physics.rings import ring_means, spread
from gaussemble.prepare.grid import Grid

SOFT_EDGE = 0.1  # of half the box: how wide the window of the noise spectrum rises
REASONS = ("a pixel is NaN or infinite", "all pixels are equal", "its background is constant (masked?)")


def background(box: int, radius: float) -> Bool[Tensor, "y x"]:
    """True outside the circle of this fraction of half the box, round pixel D//2."""
    axis = torch.arange(box) - box // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 > (radius * box / 2) ** 2


def normalised(images: Float[Tensor, "image y x"], outside: Bool[Tensor, "y x"]) -> Float[Tensor, "image y x"]:
    """Images whose background has mean 0 and standard deviation 1; NaN where it is constant."""
    values = images.flatten(1).double()
    everywhere = torch.full_like(values[0], 1 / values.shape[1])
    values = values - (values @ everywhere)[:, None]
    weights = torch.stack([outside.flatten() / outside.sum(), everywhere], dim=1)  # double, as sums of squares need
    mean, (square, whole) = (values @ weights)[:, 0], (values.square() @ weights).unbind(1)
    deviation, spread_all = (square - mean.square()).clamp(min=0).sqrt(), whole.sqrt()
    deviation = torch.where(deviation > 1e-6 * spread_all, deviation, torch.nan)
    return ((values - mean[:, None]) / deviation[:, None]).float().view_as(images)


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a split."""

    grid: Grid
    sign: int  # -1: the contrast is reversed
    outside: Bool[Tensor, "y x"] | None  # the background that is normalised, None: it is not
    gain: Float[Tensor, "y half_x"] | None = None  # of the whitening filter

    def __call__(
        self, raw: Float[np.ndarray, "image y x"], kind: int
    ) -> tuple[Float[Tensor, "image box box"], np.ndarray]:
        """Images of one kind as they are stored, and (image,) why one is unusable, empty where it is not."""
        with np.errstate(invalid="ignore"):
            low, high = (function(raw.reshape(len(raw), -1), axis=1) for function in (np.min, np.max))
        finite = np.isfinite(low) & np.isfinite(high)
        if not finite.all():
            raw = np.where(finite[:, None, None], raw, np.float32(0))
        stored = self.sign * self.grid.place(torch.from_numpy(raw), kind)
        if self.gain is not None:
            stored = filtered(stored, self.gain)
        if self.outside is not None:
            stored = normalised(stored, self.outside)
        flat = ~np.isfinite(stored.flatten(1).sum(1).numpy())
        return stored, np.select([~finite, low == high, flat], REASONS, "")


def filtered(images: Float[Tensor, "image y x"], gain: Float[Tensor, "y half_x"]) -> Float[Tensor, "image y x"]:
    """Images with each Fourier coefficient multiplied."""
    return to_real(to_fourier(images) * gain, images.shape[-1])


def soft_background(box: int, radius: float) -> Float[Tensor, "y x"]:
    """0 within the circle of this fraction of half the box, rising to 1 as a raised cosine."""
    axis = torch.arange(box) - box // 2
    distance = (axis[:, None] ** 2 + axis[None, :] ** 2).double().sqrt() / (box / 2)
    ramp = ((distance - radius) / SOFT_EDGE).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(torch.pi * ramp)).float()


def background_power(images: Float[Tensor, "image y x"], window: Float[Tensor, "y x"]) -> Float[Tensor, " ring"]:
    """Mean |F|² per ring of noise that fills whole images, measured through a window that leaves out the molecule.

    `|F(w n)|²` is the spectrum smeared by |F(w)|², a few rings for a window outside a circle; its mean is `sum w²`
    over the number of pixels of what the whole image would give. The window's mean is taken out first.
    """
    box = images.shape[-1]
    mean = (images * window).sum((1, 2)) / window.sum()
    power = to_fourier((images - mean[:, None, None]) * window).abs().square()
    return ring_means(power, box).mean(0) * box**2 / window.square().sum()


def whitening_gain(power: Float[Tensor, " ring"], box: int) -> Float[Tensor, "y half_x"]:
    """One over the square root of a noise spectrum, its mean square over the rings 1; the corners as the last ring.

    Ring 0 is as ring 1: normalising the background has taken its power away.
    """
    power = torch.cat([power[1:2], power[1:]])
    gain = power.clamp(min=1e-6 * float(power.max())).rsqrt()
    gain = gain / gain.square().mean().sqrt()
    whole = spread(gain, box)
    return torch.where(whole > 0, whole, gain[-1])
