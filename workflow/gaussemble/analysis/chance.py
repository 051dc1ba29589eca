"""Whether anything varies at all, and whether there are clusters: what the latents must be able to deny.

A network finds latents in pure noise too. Two numbers say whether there is more, in nats a particle, over particles
that were kept from training, each with its standard error:

*variation*: evidence of the particles when their latents are drawn from a normal distribution (fitted to the training
particles' through each one's own error), over the evidence when all stand at the one latent that suits them best. If
nothing varies, no density of images explains new ones better on average than the right one, so the expected gain is
not above 0, however much was fitted (Gibbs' inequality).

*clusters*: evidence of K normal populations over that of one. A continuous motion is no normal distribution either, so
beside the gain stands the *valley*: the density at the lowest place on the straight way between neighbouring
populations, over the lower of their two peaks. Populations that run into each other have valleys near 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.special import logsumexp
from scipy.stats import norm

from gaussemble.analysis.deconvolution import Likelihoods, Populations, deconvolve, log_evidence

LEAST = 0.01  # nats a particle: less is called nothing, however sure it is
SURE = 3.0  # standard errors
APART = 0.5  # valleys below it part clusters
STEPS = 41  # places looked at between two populations


@dataclass(frozen=True)
class Gain:
    """A mean difference of log evidence over held-out particles."""

    mean: float  # nats a particle
    error: float  # its standard error
    particles: int

    @property
    def beyond_chance(self) -> bool:
        """More than chance gives, and enough to matter."""
        return self.mean > max(LEAST, SURE * self.error)

    @property
    def probability(self) -> float:
        """Of so large a gain where there is nothing to gain (one-sided, normal)."""
        return float(norm.sf(self.mean / self.error)) if self.error > 0 else float(self.mean <= 0)


@dataclass(frozen=True)
class Verdict:
    """Do particles differ, and do they form clusters?"""

    variation: Gain
    clusters: Gain
    valley: float  # of the best parted neighbours; 1 with one population

    @property
    def varies(self) -> bool:
        """Something varies."""
        return self.variation.beyond_chance

    @property
    def clustered(self) -> bool:
        """Something varies, between populations with gaps between them."""
        return self.varies and self.clusters.beyond_chance and self.valley < APART

    @property
    def sentence(self) -> str:
        """In words."""
        gain = f"{self.variation.mean:.3g} ± {self.variation.error:.2g} nats a held-out particle"
        if not self.varies:
            return f"nothing varies beyond chance: {gain}"
        apart = f"{self.clusters.mean:.3g} ± {self.clusters.error:.2g} nats, valleys {self.valley:.0%} deep as peaks"
        return f"particles vary ({gain}); " + (
            f"clusters stand apart ({apart})" if self.clustered else f"no clusters beyond chance ({apart})"
        )


def judge(seen: Likelihoods, held_out: Bool[np.ndarray, " particle"], components: int, seed: int = 0) -> Verdict:
    """Fit populations to the training particles, and judge them by the others.

    Args:
        seen: what the images say of each latent, without the prior (`deconvolution.likelihoods`).
        held_out: particles that were kept from training; without any, every tenth is taken, which is lenient.
        components: number of populations.
        seed: of the fits.
    """
    if not held_out.any():
        held_out = np.arange(len(seen)) % 10 == 0
    training, others = seen[~held_out], seen[held_out]
    one = deconvolve(training, 1, seed)
    single = log_evidence(others, one)
    variation = gain(single - point_evidence(others, best_point(training)))
    if components == 1:
        return Verdict(variation, Gain(0.0, 0.0, len(others)), 1.0)
    many = deconvolve(training, components, seed)
    return Verdict(variation, gain(log_evidence(others, many) - single), deepest_valley(many))


def gain(differences: Float[np.ndarray, " particle"]) -> Gain:
    """Mean and standard error."""
    error = float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else np.inf
    return Gain(float(differences.mean()), error, len(differences))


def best_point(seen: Likelihoods) -> Float64[np.ndarray, " latent"]:
    """The one latent at which all particles together are likeliest."""
    total = seen.precision.sum(0)
    return np.linalg.pinv(total, hermitian=True) @ seen.information.sum(0)


def point_evidence(seen: Likelihoods, point: Float[np.ndarray, " latent"]) -> Float64[np.ndarray, " particle"]:
    """Log likelihood of each particle at one latent, relative to that at latent 0."""
    return seen.information @ point - 0.5 * np.einsum("i,nij,j->n", point, seen.precision, point)


def deepest_valley(populations: Populations) -> float:
    """Lowest ratio of the lowest density between two neighbours to the lower of their peaks.

    Neighbours are populations on whose straight way no third is the likelier one anywhere: a gap between two that a
    third fills is none.
    """
    ratios = [1.0]
    count = len(populations.share)
    for first in range(count):
        for second in range(first + 1, count):
            way = np.linspace(populations.mean[first], populations.mean[second], STEPS)
            log = log_densities(populations, way)
            if np.isin(log.argmax(1), (first, second)).all():
                total = logsumexp(log, axis=1)
                ratios.append(float(np.exp(total.min() - min(total[0], total[-1]))))
    return min(ratios)


def log_densities(
    populations: Populations, place: Float[np.ndarray, "place latent"]
) -> Float64[np.ndarray, "place component"]:
    """Log of share times normal density of each population, up to a common constant."""
    apart = place[:, None] - populations.mean
    inverse = np.linalg.inv(populations.covariance)
    distance = np.einsum("pki,kij,pkj->pk", apart, inverse, apart)
    return np.log(populations.share) - 0.5 * (distance + np.linalg.slogdet(populations.covariance)[1])
