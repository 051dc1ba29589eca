"""How likely particles are when their latents are not known but drawn from a distribution: the marginal evidence.

The likelihood at a particle's own fitted latent is always higher than at a common one, whether anything varies or not;
the evidence, which averages over the distribution, is not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.losses import likelihood
from gaussemble.fit.posterior import Posterior, Prior, even_draws, objective
from gaussemble.model.heterogeneity import DeformableMixture

SAMPLES = 16
NARROWEST = 1e-12  # variance of a proposal


@torch.no_grad()
def log_evidence(
    model: DeformableMixture, batch: Batch, posterior: Posterior, prior: Prior, samples: int = SAMPLES
) -> Float[Tensor, " image"]:
    """Log of the integral of p(image | z) prior(z) over z, in nats, up to the constant of `likelihood`.

    By importance sampling from the normal posteriors: `log mean_s p(image | z_s) prior(z_s) / posterior(z_s)`. Exact,
    whatever the number of samples, where these are the posteriors. Where they are not it is too low in two dimensions
    and more (in four by 0.04 and 0.5 nats for deviations wrong by a tenth and by a third), since the draws have
    one covariance but few lengths; in one dimension too high by a tenth of that.
    """
    drawn = even_draws(samples, posterior.latent.shape[1], seed=1).to(posterior.latent)
    variance, axes = torch.linalg.eigh(posterior.covariance)
    deviation = variance.clamp(min=NARROWEST).sqrt()
    places = posterior.latent + torch.einsum("ijk, sk -> sij", axes * deviation[:, None], drawn)
    cost = torch.stack([objective(model, batch, place, prior) for place in places])
    volume = deviation.log().sum(-1) - 0.5 * torch.linalg.slogdet(prior.covariance)[1]
    return torch.logsumexp(0.5 * drawn.square().sum(-1)[:, None] - cost, dim=0) - math.log(len(drawn)) + volume


@torch.no_grad()
def log_likelihood(
    model: DeformableMixture, batch: Batch, point: Float[Tensor, " latent"] | None
) -> Float[Tensor, " image"]:
    """The same if all particles stand at one latent, or (None) are the neutral mixture."""
    mixture = model.neutral if point is None else model.decode(point[None].expand(len(batch), -1))
    return -likelihood(batch, batch.predict(mixture))
