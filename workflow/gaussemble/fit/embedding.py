"""Every particle's latent vector after training, with its uncertainty, and the prior that all of them share."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Batch
from gaussemble.fit.distributed import combine
from gaussemble.fit.posterior import Posterior, Prior, Quadratic, learn_prior, quadratic, refine, unit_prior, weigh
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
    first, place = unit_prior(latent.shape[1], weight), latent

    def refined(prior: Prior) -> Callable[[Batch, Tensor], Posterior]:
        return lambda batch, rows: refine(model, batch, place[rows].to(study.device), prior.to(study.device), steps)

    place = _over_all(study, "latents", latent, refined(first)).latent
    prior = learn_prior(_data(model, study, place), first)
    found = _over_all(study, "latents under their prior", latent, refined(prior))
    if samples == 0:
        return found, prior

    def weighed(batch: Batch, rows: Tensor) -> Posterior:
        return weigh(model, batch, found[rows].to(study.device), prior.to(study.device), samples)

    return _over_all(study, "posteriors", latent, weighed), prior


def _data(model: DeformableMixture, study: Study, latent: Float[Tensor, "image latent"]) -> Quadratic:
    """What all images say near these latents, each process its share, on the CPU."""
    precision, pull = latent.new_zeros(*latent.shape, latent.shape[1]), torch.zeros_like(latent)
    for rows, batch in study.passed("curvatures"):
        part = quadratic(model, batch, latent[rows].to(study.device))
        precision[rows], pull[rows] = part.precision.cpu(), part.pull.cpu()
    return Quadratic(combine(precision), combine(pull))


def _over_all(
    study: Study, what: str, like: Float[Tensor, "image latent"], posterior: Callable[[Batch, Tensor], Posterior]
) -> Posterior:
    """Posteriors of all particles, each process its share, on the CPU."""
    latent, covariance = torch.zeros_like(like), like.new_zeros(*like.shape, like.shape[1])
    for rows, batch in study.passed(what):
        part = posterior(batch, rows).to("cpu")
        latent[rows], covariance[rows] = part.latent, part.covariance
    return Posterior(combine(latent), combine(covariance))
