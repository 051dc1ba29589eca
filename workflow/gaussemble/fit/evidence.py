"""How likely particles are when their latents are not known but drawn from a distribution: the marginal evidence.

The likelihood at a particle's own fitted latent is always higher than at a common one, whether anything varies or not;
the evidence, which averages over the distribution, is not.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from scipy.stats import chi
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.losses import likelihood
from gaussemble.fit.posterior import Posterior, Prior, objective
from gaussemble.model.heterogeneity import DeformableMixture

SAMPLES = 64
STRETCH = 1.2  # of the draws beyond the normal posterior: a true one that is wider is missed more than a narrower one
NARROWEST = 1e-12  # variance of a proposal


@torch.no_grad()
def log_evidence(
    model: DeformableMixture, batch: Batch, posterior: Posterior, prior: Prior, samples: int = SAMPLES
) -> Float[Tensor, " image"]:
    """Log of the integral of p(image | z) prior(z) over z, in nats, up to the constant of `likelihood`."""
    found = log_integral(lambda place: objective(model, batch, place, prior), posterior, samples)
    dimensions = posterior.latent.shape[1]
    return found - 0.5 * (dimensions * math.log(2 * math.pi) + torch.linalg.slogdet(prior.covariance)[1])


def log_integral(
    cost: Callable[[Float[Tensor, "image latent"]], Float[Tensor, " image"]], posterior: Posterior, samples: int
) -> Float[Tensor, " image"]:
    """Log of the integral of exp(-cost(z)) over z, where that is nearly a multiple of the normal posterior.

    By importance sampling: `log mean_s exp(-cost(z_s)) / proposal(z_s)`. With 64 draws the mean over many normal
    densities, of which the integral is known, errs by less than 0.004 nats in up to ten dimensions where deviations
    are wrong by a tenth, and in up to four by less than 0.012 where all of them are a third too small or too large.
    """
    drawn = framed_draws(samples, posterior.latent.shape[1], seed=1).to(posterior.latent)
    variance, axes = torch.linalg.eigh(posterior.covariance)
    deviation = variance.clamp(min=NARROWEST).sqrt() * STRETCH
    places = posterior.latent + torch.einsum("ijk, sk -> sij", axes * deviation[:, None], drawn)
    weights = 0.5 * drawn.square().sum(-1)[:, None] - torch.stack([cost(place) for place in places])
    volume = deviation.log().sum(-1) + 0.5 * drawn.shape[1] * math.log(2 * math.pi)
    return torch.logsumexp(weights, dim=0) - math.log(len(drawn)) + volume


def framed_draws(samples: int, dimensions: int, seed: int) -> Float[Tensor, "sample latent"]:
    """Normal draws, spread evenly: orthogonal frames in random directions, in both signs, and lengths of all quantiles.

    Independent draws, or such whose covariance alone is exact, have lengths by chance; but it is the length on which
    the ratio of two normal densities depends most. At least so many as asked for, whole frames in both signs.
    """
    frames = -(-samples // (2 * dimensions))
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(frames, dimensions, dimensions, generator=generator))[0].flatten(0, 1)
    quantiles = (torch.arange(len(directions), dtype=torch.float64) + 0.5) / len(directions)
    lengths = torch.from_numpy(chi.ppf(quantiles.numpy(), dimensions)).to(directions)
    half = directions * lengths[torch.randperm(len(directions), generator=generator), None]
    return torch.cat([half, -half])


@torch.no_grad()
def log_likelihood(
    model: DeformableMixture, batch: Batch, point: Float[Tensor, " latent"] | None
) -> Float[Tensor, " image"]:
    """The same if all particles stand at one latent, or (None) are the neutral mixture."""
    mixture = model.neutral if point is None else model.decode(point[None].expand(len(batch), -1))
    return -likelihood(batch, batch.predict(mixture))
