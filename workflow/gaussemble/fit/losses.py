"""How badly a prediction explains a particle: one number an image, smaller is better."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Complex, Float
from torch import Tensor

from gaussemble.fit.band import Batch, half_sums

LossName = Literal["likelihood", "frc"]
Loss = Callable[[Batch, Tensor], Tensor]


def likelihood(batch: Batch, predicted: Complex[Tensor, "image y half_x"]) -> Float[Tensor, " image"]:
    """Negative log-likelihood in nats, up to a constant: half the whitened squared residual."""
    residual = batch.image - predicted
    return 0.5 * (residual.real.square() + residual.imag.square()).sum((-2, -1))


def frc(batch: Batch, predicted: Complex[Tensor, "image y half_x"]) -> Float[Tensor, " image"]:
    """Minus the mean Fourier ring correlation over the band's rings (Chen & Ludtke 2021), times 1000.

    The factor brings it to the size of a log-likelihood, so that the same prior and step size serve both.
    """
    cross = half_sums((predicted.conj() * batch.image).real, batch.box)
    power = half_sums(predicted.abs().square(), batch.box) * half_sums(batch.image.abs().square(), batch.box)
    inside = (half_sums(batch.transfer.square(), batch.box) > 0).to(cross.dtype)
    correlation = inside * cross * power.clamp(min=1e-20).rsqrt()
    return -1000 * correlation.sum(-1) / inside.sum(-1).clamp(min=1)


LOSSES: dict[LossName, Loss] = {"likelihood": likelihood, "frc": frc}
