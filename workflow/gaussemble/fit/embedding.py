"""Every particle's latent vector after training, with its uncertainty, and the distribution that all of them share.

Two descriptions of a particle's posterior meet. Over landmarks (fit.population) it may have any form, but none finer
than the landmarks' spacing. By Gauss-Newton steps from the most probable landmark it is as fine as can be, but normal.
With n landmarks probable, the first counts `(n - 1) / (n + dimensions)`: not at all where one landmark takes it all;
alone where that is more than a half.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gaussemble.fit.band import Band
from gaussemble.fit.distributed import combine, share
from gaussemble.fit.population import READ, compared, moments, populate, population, spread_gain
from gaussemble.fit.posterior import Posterior, Prior, refine
from gaussemble.fit.scratch import Table
from gaussemble.fit.study import EVALUATION_BATCH, Study
from gaussemble.fit.training import encode_all
from gaussemble.model.heterogeneity import DeformableMixture
from gaussemble.progress import progress

# Where landmarks count for more, they count alone: a posterior of so many is no normal one. (Refining 6,000 particles
# of `linker` at SNR 0.01 up to 0.9 took 60 s and gave an R² of 0.447; up to 0.5 7 s and 0.453; without it, 0.457.)
PLAIN = 0.5


class Embedding(NamedTuple):
    """All particles under a model."""

    posterior: Posterior
    prior: Prior
    gain: Float[Tensor, " image"] | None  # nats over a rigid molecule; None where latents are a network's


def embed(model: DeformableMixture, study: Study, steps: int, seed: int) -> Embedding:
    """Find the landmarks' last places and shares, and the posteriors of all particles under them.

    Poses stay as they were found.

    Args:
        model: after training; its landmarks are changed.
        study: the particles.
        steps: at most so many Gauss-Newton steps a particle; 0: landmarks alone.
        seed: of the landmarks' places.
    """
    if model.poses is None:
        gains, gain = populate(model, study, lambda: encode_all(model, study), seed), None
    else:
        gains = compared(model, study.band)
        gain = spread_gain(model, gains, study.band, study.held_out).float()
    return Embedding(posteriors(model, study.band, gains, steps, study.device), population(model), gain)


def embed_under(model: DeformableMixture, band: Band, steps: int, device: torch.device) -> tuple[Posterior, Table]:
    """The same for particles that had no say in the model and its landmarks; with what `compared` finds."""
    gains = compared(model, band)
    return posteriors(model, band, gains, steps, device), gains


def posteriors(model: DeformableMixture, band: Band, gains: Table, steps: int, device: torch.device) -> Posterior:
    """Posteriors of all particles, each process its share, on the CPU."""
    count, length = len(band), model.latent_dim
    mean, covariance = torch.zeros(count, length), torch.zeros(count, length, length)
    start, told = torch.zeros(count, length), torch.zeros(count)
    own = torch.arange(count)[share(count)]
    for rows in own.split(READ):
        found, start[rows], number = moments(model, gains.read(rows))
        mean[rows], covariance[rows] = found.latent, found.covariance
        told[rows] = (number - 1) / (number + length) if steps and model.poses is None else 1.0
    fine, prior = own[told[own] < PLAIN], population(model).to(device)
    for rows in progress(fine.split(EVALUATION_BATCH), "latents"):
        local = refine(model, band.batch(rows, device), start[rows].to(device), prior, steps).to("cpu")
        both = mixed(local, Posterior(mean[rows], covariance[rows]), told[rows])
        mean[rows], covariance[rows] = both.latent, both.covariance
    return Posterior(combine(mean), combine(covariance))


def mixed(one: Posterior, other: Posterior, share_of_other: Float[Tensor, " image"]) -> Posterior:
    """Mean and covariance of the mixture of two distributions, for each particle."""
    weight = share_of_other[:, None]
    apart = other.latent - one.latent
    between = (weight * (1 - weight))[..., None] * apart[:, :, None] * apart[:, None, :]
    covariance = torch.lerp(one.covariance, other.covariance, weight[..., None]) + between
    return Posterior(torch.lerp(one.latent, other.latent, weight), covariance)
