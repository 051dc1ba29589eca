"""What each particle's image says of its latent vector: a normal distribution, and how much of the motion it shows.

Gauss-Newton steps on the whitened likelihood lead to the posterior's mode, and there the curvature's inverse is its
covariance (Laplace). At low signal a posterior is wide against the decoder's curvature, and no normal distribution:
fit.population holds it in another way.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.losses import likelihood
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.physics.projection import project_tangents
from gaussemble.quantities import Mixture

CONVERGED = 0.02  # nats that a step still promises: the optimum is then 0.2 posterior standard deviations away
DAMPING = 0.3  # of Levenberg's, in units of the curvature's diagonal, after a step that failed; 10 times more each time


@dataclass(frozen=True)
class Prior:
    """A normal distribution of latents."""

    mean: Float[Tensor, " latent"]
    covariance: Float[Tensor, "latent latent"]

    @property
    def precision(self) -> Float[Tensor, "latent latent"]:
        """The covariance's inverse."""
        return torch.linalg.inv(self.covariance)

    def cost(self, latent: Float[Tensor, "image latent"]) -> Float[Tensor, " image"]:
        """Minus its logarithm in nats, up to a constant."""
        offset = latent - self.mean
        return 0.5 * ((offset @ self.precision) * offset).sum(-1)

    def to(self, device: torch.device | str) -> "Prior":
        """On a device."""
        return Prior(self.mean.to(device), self.covariance.to(device))


@dataclass(frozen=True)
class Posterior:
    """Latents of particles as normal distributions."""

    latent: Float[Tensor, "image latent"]
    covariance: Float[Tensor, "image latent latent"]

    @property
    def deviation(self) -> Float[Tensor, "image latent"]:
        """Standard deviation along each latent axis."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    def __getitem__(self, rows: Tensor) -> "Posterior":
        """Those of some particles."""
        return Posterior(self.latent[rows], self.covariance[rows])

    def to(self, device: torch.device | str) -> "Posterior":
        """On a device."""
        return Posterior(self.latent.to(device), self.covariance.to(device))


def jacobian(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"]
) -> Complex[Tensor, "image latent coefficient"]:
    """Derivatives of the predicted images along each latent axis."""

    def decoded(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixture = model.decode(values)
        return mixture.center, mixture.amplitude, mixture.width

    def along(axis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.func.jvp(decoded, (latent,), (axis.expand_as(latent),))[1]

    axes = torch.eye(latent.shape[1], dtype=latent.dtype, device=latent.device)
    changes = [Mixture(*change) for change in zip(*torch.func.vmap(along)(axes), strict=True)]
    mixture = model.decode(latent)
    slopes = project_tangents(mixture, changes, batch.rotation, batch.box, batch.pixel_size)
    return (batch.transfer[:, None] * slopes).flatten(start_dim=2)


def objective(model: DeformableMixture, batch: Batch, latent: Tensor, prior: Prior) -> Float[Tensor, " image"]:
    """Minus the log posterior in nats, up to a constant."""
    return likelihood(batch, batch.predict(model.decode(latent))) + prior.cost(latent)


@torch.no_grad()
def refine(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"], prior: Prior, steps: int
) -> Posterior:
    """The posterior's mode by at most `steps` Gauss-Newton steps, none uphill, and the covariance there.

    A particle is done when a step promises less than `CONVERGED` nats; the others go on by themselves. Where a step
    would go uphill it is not taken, and Levenberg's damping turns the next one towards the gradient and shortens it.
    """
    latent, value = latent.clone(), objective(model, batch, latent, prior)
    precision = torch.diag_embed(torch.zeros_like(latent))
    damping, rows = torch.zeros_like(value), torch.arange(len(latent), device=latent.device)
    for number in range(steps + 1):
        place = latent[rows]
        precision[rows], slope = _data_equations(model, batch, place)
        curvature, gradient = precision[rows] + prior.precision, slope - (place - prior.mean) @ prior.precision
        promised = 0.5 * (gradient * torch.linalg.solve(curvature, gradient)).sum(-1)
        going = promised > CONVERGED
        if number == steps or not going.any():
            break
        rows, batch, curvature, gradient = rows[going], _take(batch, going), curvature[going], gradient[going]
        damped = curvature + torch.diag_embed(damping[rows, None] * curvature.diagonal(dim1=-2, dim2=-1))
        trial = latent[rows] + torch.linalg.solve(damped, gradient)
        reached = objective(model, batch, trial, prior)
        better = reached < value[rows]
        latent[rows] = torch.where(better[:, None], trial, latent[rows])
        value[rows] = torch.where(better, reached, value[rows])
        damping[rows] = torch.where(better, 0.0, (10 * damping[rows]).clamp(min=DAMPING))
    return Posterior(latent, _inverse(precision + prior.precision))


def _inverse(curvature: Float[Tensor, "image latent latent"]) -> Float[Tensor, "image latent latent"]:
    """Inverses, taken in double precision."""
    return torch.linalg.inv(curvature.double()).to(curvature)


def _take(batch: Batch, chosen: Bool[Tensor, " image"]) -> Batch:
    """Some particles of a batch."""
    return replace(batch, rotation=batch.rotation[chosen], image=batch.image[chosen], transfer=batch.transfer[chosen])


def _data_equations(model: DeformableMixture, batch: Batch, latent: Tensor) -> tuple[Tensor, Tensor]:
    """(image, latent, latent) curvature and (image, latent) uphill gradient of the log-likelihood."""
    slopes = torch.view_as_real(jacobian(model, batch, latent)).flatten(start_dim=2)
    residual = (batch.image - batch.predict(model.decode(latent))).flatten(start_dim=1)
    pull = (slopes @ torch.view_as_real(residual).flatten(start_dim=1)[..., None]).squeeze(-1)
    return slopes @ slopes.mT, pull


def observability(posterior: Posterior, prior: Prior) -> Float[Tensor, " image"]:
    """The share of the prior's variance that each particle's data removed, from 0 (nothing seen) to 1 (all known).

    With S the posterior's and C the prior's covariance, `1 - tr(S C^-1) / latent`: the mean, over the principal axes
    of one against the other, of 1 - posterior variance / prior variance, whatever coordinates the latents have. Times
    the latent's length it is Rodgers' number of degrees of freedom for signal (Inverse Methods for Atmospheric
    Sounding, 2000, eq. 2.80). It depends on a particle's view, CTF and noise: a motion along the viewing direction
    moves nothing in the image and leaves the prior as it was.
    """
    left = torch.einsum("ijk, kj -> i", posterior.covariance, prior.precision) / posterior.latent.shape[1]
    return (1 - left).clamp(0, 1)


def displacement_told(posterior: Posterior, prior: Prior) -> Float[Tensor, " image"]:
    """The same of latents that are displacements in Å, as poses are: the share of the mean square that was removed.

    1 - tr S / tr C: axes along which nothing is displaced do not count.
    """
    left = posterior.covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / prior.covariance.diagonal().sum()
    return (1 - left).clamp(0, 1)
