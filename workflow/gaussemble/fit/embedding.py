"""Every particle's latent vector after training, with its uncertainty, and the prior that all of them share."""

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.distributed import combine
from gaussemble.fit.posterior import Posterior, Prior, Quadratic, approach, learn_prior, moved, unit_prior, weigh
from gaussemble.fit.study import Study
from gaussemble.model.heterogeneity import DeformableMixture


def embed(
    model: DeformableMixture,
    study: Study,
    latent: Float[Tensor, "image latent"],
    weight: float,
    steps: int,
    samples: int,
) -> tuple[Posterior, Prior]:
    """Refine all latents, learn from them the prior that they share, and take their posteriors under it.

    Args:
        model: after training.
        study: the particles.
        latent: where the encoder put them.
        weight: of the unit normal prior in training.
        steps: at most so many Gauss-Newton steps a particle.
        samples: of each exact posterior, for its mean and covariance; 0: mode and curvature serve instead.
    """
    first = unit_prior(latent.shape[1], weight)
    place, seen = _approached(model, study, latent, first, steps)
    prior = learn_prior(seen, first)
    return _posteriors(model, study, place, seen, prior, samples), prior


def embed_under(
    model: DeformableMixture,
    study: Study,
    latent: Float[Tensor, "image latent"],
    prior: Prior,
    steps: int,
    samples: int,
) -> Posterior:
    """The same under a prior that is known already: particles of another half of the data."""
    place, seen = _approached(model, study, latent, prior, steps)
    return _posteriors(model, study, place, seen, prior, samples)


def _approached(
    model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"], prior: Prior, steps: int
) -> tuple[Float[Tensor, "image latent"], Quadratic]:
    """Refined latents and what all images say there, each process its share, on the CPU."""
    place, pull, precision = torch.zeros_like(latent), torch.zeros_like(latent), _matrices(latent)
    prior = prior.to(study.device)
    for rows, batch in study.passed("latents"):
        reached, seen = approach(model, batch, latent[rows].to(study.device), prior, steps)
        place[rows], precision[rows], pull[rows] = reached.cpu(), seen.precision.cpu(), seen.pull.cpu()
    return combine(place), Quadratic(combine(precision), combine(pull))


def _posteriors(
    model: DeformableMixture,
    study: Study,
    latent: Float[Tensor, "image latent"],
    seen: Quadratic,
    prior: Prior,
    samples: int,
) -> Posterior:
    """Posteriors of all particles under the prior that they share, each process its share, on the CPU."""
    mean, covariance, prior = torch.zeros_like(latent), _matrices(latent), prior.to(study.device)
    for rows, batch in study.passed("posteriors"):
        own = Quadratic(seen.precision[rows].to(study.device), seen.pull[rows].to(study.device))
        part = moved(model, batch, latent[rows].to(study.device), own, prior)
        part = (weigh(model, batch, part, prior, samples) if samples else part).to("cpu")
        mean[rows], covariance[rows] = part.latent, part.covariance
    return Posterior(combine(mean), combine(covariance))


def _matrices(latent: Float[Tensor, "image latent"]) -> Float[Tensor, "image latent latent"]:
    """Zeros, for a matrix of each particle."""
    return latent.new_zeros(*latent.shape, latent.shape[1])
