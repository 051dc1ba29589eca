"""The filter that makes the noise of a split's images white: one noise spectrum, measured outside the molecules.

A reconstruction of whitened images is filtered likewise. Training does without: its likelihood divides by the noise.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.images import ParticleImages
from gaussemble.physics.fourier import to_fourier
from gaussemble.physics.rings import ring_means, spread
from gaussemble.prepare.pixels import Preparation
from gaussemble.prepare.storing import prepared_blocks

SAMPLE = 1000  # images at most on which the spectrum is measured
SOFT_EDGE = 0.1  # of half the box: how wide the window rises


def measured_gain(
    images: ParticleImages, rows: Int[np.ndarray, " row"], prepare: Preparation, radius: float
) -> Float[Tensor, "y half_x"]:
    """The filter, from some of the rows, evenly spread.

    Args:
        images: on disk.
        rows: those of the split.
        prepare: what is done to them before.
        radius: background is outside this fraction of half the box.

    Raises:
        InputError: none of them is usable.
    """
    box = prepare.grid.box
    some = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]
    window = soft_background(box, radius)
    total, count = torch.zeros(box // 2 + 1, dtype=torch.float64), 0
    for _, block in prepared_blocks(images, some, prepare, "noise spectrum for whitening"):
        usable = block.images[torch.from_numpy(block.reasons == "")]
        if len(usable):
            total += background_power(usable, window).double() * len(usable)
            count += len(usable)
    if not count:
        raise InputError(f"option particles.whiten: no usable image among {len(some)}, as {images.name(int(some[0]))}")
    return whitening_gain((total / count).float(), box)


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
