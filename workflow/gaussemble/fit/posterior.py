"""Each particle's latent vector refined against the trained decoder, with its uncertainty.

Gauss-Newton on the whitened likelihood with the prior N(0, 1/prior): at the optimum the curvature's inverse is the
posterior covariance (Laplace approximation). The encoder amortises; a particle's own few steps take back what that
cost.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.losses import likelihood
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.physics.projection import project_tangents
from gaussemble.quantities import Mixture


def jacobian(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"]
) -> Complex[Tensor, "image latent coefficient"]:
    """Derivatives of the predicted images along each latent axis."""

    def decoded(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixture = model.decode(values)
        return mixture.center, mixture.amplitude, mixture.width

    value, changes = (), []
    for axis in torch.eye(latent.shape[1], dtype=latent.dtype, device=latent.device):
        value, change = torch.func.jvp(decoded, (latent,), (axis.expand_as(latent),))[:2]
        changes.append(Mixture(*change))
    slopes = project_tangents(Mixture(*value), changes, batch.rotation, batch.box, batch.pixel_size)
    return (batch.transfer[:, None] * slopes).flatten(start_dim=2)


def objective(model: DeformableMixture, batch: Batch, latent: Tensor, prior: float) -> Float[Tensor, " image"]:
    """Minus the log posterior in nats, up to a constant."""
    return likelihood(batch, batch.predict(model.decode(latent))) + 0.5 * prior * latent.square().sum(-1)


@torch.no_grad()
def refine(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"], prior: float, steps: int
) -> tuple[Float[Tensor, "image latent"], Float[Tensor, "image latent"]]:
    """`steps` Gauss-Newton steps, each taken only where it lowers the objective (whole, else a quarter of it).

    Returns the latents and their posterior standard deviations, from the curvature that the last step used (with 0
    steps, the curvature at the given latents).
    """
    current = objective(model, batch, latent, prior)
    curvature, gradient = _normal_equations(model, batch, latent, prior)
    for number in range(steps):
        if number > 0:
            curvature, gradient = _normal_equations(model, batch, latent, prior)
        move = torch.linalg.solve(curvature, gradient)
        for share in (1.0, 0.25):
            trial = latent + share * move
            value = objective(model, batch, trial, prior)
            better = value < current
            latent = torch.where(better[:, None], trial, latent)
            move = torch.where(better[:, None], 0.0, move)
            current = torch.where(better, value, current)
    return latent, torch.linalg.inv(curvature).diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def _normal_equations(model: DeformableMixture, batch: Batch, latent: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """(image, latent, latent) curvature and (image, latent) downhill gradient of the objective."""
    slopes = torch.view_as_real(jacobian(model, batch, latent)).flatten(start_dim=2)
    residual = (batch.image - batch.predict(model.decode(latent))).flatten(start_dim=1)
    pull = (slopes @ torch.view_as_real(residual).flatten(start_dim=1)[..., None]).squeeze(-1)
    identity = torch.eye(latent.shape[1], device=latent.device)
    return slopes @ slopes.mT + prior * identity, pull - prior * latent
