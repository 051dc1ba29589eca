"""Every particle's latent vector after training, with its uncertainty, and the prior that all of them share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.distributed import combine
from gaussemble.fit.posterior import Posterior, Prior, change_prior, learn_prior, refine, unit_prior, weigh
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

    def refined(batch: Batch, rows: Tensor) -> Posterior:
        return refine(model, batch, latent[rows].to(study.device), first.to(study.device), steps)

    found = _over_all(study, "latents", latent, refined)
    prior = learn_prior(found, first)
    found = change_prior(found, first, prior)
    if samples == 0:
        return found, prior

    def weighed(batch: Batch, rows: Tensor) -> Posterior:
        return weigh(model, batch, found[rows].to(study.device), prior.to(study.device), samples)

    return _over_all(study, "posteriors", latent, weighed), prior


def _over_all(
    study: Study, what: str, like: Float[Tensor, "image latent"], posterior: Callable[[Batch, Tensor], Posterior]
) -> Posterior:
    """Posteriors of all particles, each process its share, on the CPU."""
    latent, covariance = torch.zeros_like(like), like.new_zeros(*like.shape, like.shape[1])
    for rows, batch in study.passed(what):
        part = posterior(batch, rows).to("cpu")
        latent[rows], covariance[rows] = part.latent, part.covariance
    return Posterior(combine(latent), combine(covariance))
