"""What each particle's image says of its latent vector: a normal distribution, and how much of the motion it shows.

The encoder amortises; a particle's own few Gauss-Newton steps on the whitened likelihood take back what that cost, and
at the optimum the curvature's inverse is the posterior covariance (Laplace). At low signal a posterior is wide against
the decoder's curvature, so its mean, the best guess of the latent, is not its mode: `weigh` takes mean and covariance
from a few weighted samples of the exact posterior.

The prior is a normal distribution that the particles themselves choose (`learn_prior`), since the lengths that
training happened to give to the latents say nothing of how far particles spread.
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
PRIOR_STEPS = 1000  # of expectation maximisation, at most; many where the data say little
PRIOR_SETTLED = 1e-4  # a change of a step, in the prior's own deviations, below which it ends
PRIOR_SAMPLE = 20_000  # particles, evenly from all, are enough for a prior
PRIOR_WIDEST = 2.0  # deviations of the first prior
PRIOR_WEIGHT = 20  # particles, seen perfectly and spread as in training, that are counted besides


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


@dataclass(frozen=True)
class Quadratic:
    """What images say of latents, without any prior: log-likelihoods -z'Dz/2 + pull'z, up to a constant.

    Along an axis of which a view says nothing both are zero there; so nothing is made up, however wide a prior is.
    """

    precision: Float[Tensor, "image latent latent"]
    pull: Float[Tensor, "image latent"]


def unit_prior(latent_dim: int, weight: float = 1.0) -> Prior:
    """N(0, 1/weight), as in training; without weight one of deviation 10, where latents start with 1."""
    return Prior(torch.zeros(latent_dim), torch.eye(latent_dim) / max(weight, 0.01))


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
    """The posterior's mode by at most `steps` Gauss-Newton steps (`approach`), and the covariance there."""
    latent, seen = approach(model, batch, latent, prior, steps)
    return Posterior(latent, _inverse(seen.precision + prior.precision))


@torch.no_grad()
def approach(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"], prior: Prior, steps: int
) -> tuple[Float[Tensor, "image latent"], Quadratic]:
    """At most `steps` Gauss-Newton steps towards the posterior's mode, none uphill; and what the images say there.

    A particle is done when a step promises less than `CONVERGED` nats; the others go on by themselves. Where a step
    would go uphill it is not taken, and Levenberg's damping turns the next one towards the gradient and shortens it.
    What the images say holds also where a latent is not yet at an optimum: D = J*J, pull = D z + J*r.
    """
    latent, value = latent.clone(), objective(model, batch, latent, prior)
    precision, pull = torch.diag_embed(torch.zeros_like(latent)), torch.zeros_like(latent)
    damping, rows = torch.zeros_like(value), torch.arange(len(latent), device=latent.device)
    for number in range(steps + 1):
        place = latent[rows]
        precision[rows], slope = _data_equations(model, batch, place)
        pull[rows] = (precision[rows] @ place[..., None]).squeeze(-1) + slope
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
    return latent, Quadratic(precision, pull)


@torch.no_grad()
def moved(
    model: DeformableMixture, batch: Batch, latent: Float[Tensor, "image latent"], seen: Quadratic, prior: Prior
) -> Posterior:
    """Posteriors under another prior than that of `approach`, by a step that needs no new derivatives.

    Where it would lead uphill the latent stays where it was.
    """
    found = posterior_under(prior, seen)
    better = objective(model, batch, found.latent, prior) < objective(model, batch, latent, prior)
    return Posterior(torch.where(better[:, None], found.latent, latent), found.covariance)


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


@torch.no_grad()
def weigh(
    model: DeformableMixture, batch: Batch, posterior: Posterior, prior: Prior, samples: int, seed: int = 0
) -> Posterior:
    """Mean and covariance of the exact posteriors, by importance sampling from their normal approximations.

    The draws have mean 0 and covariance 1 exactly, so that a posterior that is normal stays as it is whatever their
    number, and the weights tell only how it differs. What a few samples say of the covariance is added to what the
    approximation says of it, as data to a prior that counts as much as latent + 1 samples (the mean of an inverse
    Wishart distribution).
    """
    dimensions = posterior.latent.shape[1]
    drawn = even_draws(samples, dimensions, seed).to(posterior.latent)
    variance, axes = torch.linalg.eigh(posterior.covariance)  # rounding may leave a variance below zero
    factor = axes * variance.clamp(min=0).sqrt()[:, None]
    places = posterior.latent + torch.einsum("ijk, sk -> sij", factor, drawn)
    cost = torch.stack([objective(model, batch, place, prior) for place in places])
    weight = torch.softmax(0.5 * drawn.square().sum(-1)[:, None] - cost, dim=0)
    mean = (weight[..., None] * places).sum(0)
    offset = places - mean
    covariance = torch.einsum("si, sij, sik -> ijk", weight, offset, offset)
    effective = (1 / weight.square().sum(0))[:, None, None]
    known = dimensions + 1
    return Posterior(mean, (effective * covariance + known * posterior.covariance) / (effective + known))


def even_draws(samples: int, dimensions: int, seed: int) -> Float[Tensor, "sample latent"]:
    """Normal draws in pairs of opposite sign, their covariance exactly 1; at least two for each dimension."""
    half = torch.randn(max(samples // 2, dimensions), dimensions, generator=torch.Generator().manual_seed(seed))
    spread = torch.linalg.cholesky(half.T @ half / len(half))
    half = torch.linalg.solve_triangular(spread, half.T, upper=False).T
    return torch.cat([half, -half])


def posterior_under(prior: Prior, data: Quadratic) -> Posterior:
    """Normal posteriors: precisions add."""
    covariance = _inverse(data.precision + prior.precision)
    return Posterior((covariance @ (data.pull + prior.precision @ prior.mean)[..., None]).squeeze(-1), covariance)


def learn_prior(data: Quadratic, start: Prior) -> Prior:
    """The normal distribution under which the particles' images are likeliest (empirical Bayes).

    By expectation maximisation: its mean is that of the particles' means, its covariance the covariance of their means
    plus the mean of their covariances, all taken again under it. Where few particles say little of an axis, its
    variance is as uncertain as if only `particles x observability²` of them had been seen well; `PRIOR_WEIGHT` more
    with the first covariance (an inverse Wishart prior) keep it from vanishing by chance, which would be overconfident.

    Args:
        data: of all particles.
        start: where the search begins.
    """
    chosen = torch.arange(0, len(data.pull), -(-len(data.pull) // PRIOR_SAMPLE))
    sample = Quadratic(data.precision[chosen].double(), data.pull[chosen].double())
    learned = first = Prior(start.mean.double(), start.covariance.double())
    for _ in range(PRIOR_STEPS):
        now, before = posterior_under(learned, sample), learned
        mean = now.latent.mean(0)
        offset = now.latent - mean
        total = offset.T @ offset + now.covariance.sum(0) + PRIOR_WEIGHT * first.covariance
        learned = Prior(mean, _narrowed(total / (len(offset) + PRIOR_WEIGHT), first))
        if _change(before, learned) < PRIOR_SETTLED:
            break
    return Prior(learned.mean.to(start.mean), learned.covariance.to(start.covariance))


def _narrowed(covariance: Float[Tensor, "latent latent"], first: Prior) -> Float[Tensor, "latent latent"]:
    """No axis wider than `PRIOR_WIDEST` deviations of the first prior: farther out no latent was in training."""
    root = torch.linalg.cholesky(first.covariance)
    inverse = torch.linalg.inv(root)
    values, axes = torch.linalg.eigh(inverse @ covariance @ inverse.T)
    return root @ (axes * values.clamp(max=PRIOR_WIDEST**2)) @ axes.T @ root.T


def _change(before: Prior, after: Prior) -> float:
    """The largest difference of two priors, in the first one's deviations."""
    root = torch.linalg.inv(torch.linalg.cholesky(before.covariance))
    moved = root @ (after.mean - before.mean)
    spread = root @ after.covariance @ root.T - torch.eye(len(root)).to(root)
    return max(float(moved.abs().max()), float(spread.abs().max()))


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
