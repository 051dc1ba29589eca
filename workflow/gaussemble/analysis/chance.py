"""Whether anything varies at all, and whether there are clusters: what the latents must be able to deny.

A network finds latents in pure noise too. Two numbers say whether there is more, in nats a particle, over particles
that were kept from training, each with its standard error:

*variation*: evidence of the particles when their latents are drawn from a normal distribution (fitted to the training
particles' through each one's own error), over the evidence when all stand at the one latent that suits them best. If
nothing varies, no density of images explains new ones better on average than the right one, so the expected gain is
not above 0, however much was fitted (Gibbs' inequality).

*clusters*: evidence of K normal populations over that of one. A continuous motion is no normal distribution either, so
beside the gain stands the *valley*: the density of the latents at the lowest place between populations, over the lower
of the two peaks beside it, on the way with the mildest valleys. Populations that run into each other have valleys near
1, also along a curve.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm

from gaussemble.analysis.deconvolution import Likelihoods, deconvolve, log_evidence, memberships, posterior_means

LEAST = 0.01  # nats a particle: less is called nothing, however sure it is
SURE = 3.0  # standard errors
APART = 0.5  # valleys below it part clusters
FITTED = 5000  # training particles to which populations are fitted, at most
FEWEST = 30  # particles of a population that counts
BINS = 48  # of a histogram, between the means of two populations


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
    valley: float  # that parts the populations (`weakest_link`); 1 with one population

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
        return f"particles vary: {gain}"


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
    rows = np.flatnonzero(~held_out)
    if len(rows) > FITTED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FITTED, replace=False))
    training, others = seen[rows], seen[held_out]
    one = deconvolve(training, 1, seed)
    single = log_evidence(others, one)
    variation = gain(single - point_evidence(others, best_point(training)))
    if components == 1:
        return Verdict(variation, Gain(0.0, 0.0, len(others)), 1.0)
    many = deconvolve(training, components, seed)
    label = memberships(seen, many).argmax(1)
    link = weakest_link(posterior_means(seen, one), label, components)
    return Verdict(variation, gain(log_evidence(others, many) - single), link)


def plausible(
    seen: Likelihoods,
    mean: Float[np.ndarray, " latent"],
    covariance: Float[np.ndarray, "latent latent"],
    reach: float = 4.0,
) -> Likelihoods:
    """The same likelihoods without pulls that no latent within reach can explain.

    Posteriors that are no normal distributions leave, without their prior, pulls along axes in which they have no
    precision, as if the latent were infinitely far. In units of the prior N(mean, covariance) a latent u seen with
    precision w pulls w u + sqrt(w) e, e a unit normal deviate: along each axis the pull is cut to
    `reach w + 3 sqrt(w)`.
    """
    unit = np.linalg.cholesky(covariance.astype(float))
    inverse = np.linalg.inv(unit)
    precision = unit.T @ seen.precision @ unit
    pull = (seen.information - seen.precision @ mean) @ unit
    weight, axes = np.linalg.eigh(precision)
    weight = weight.clip(min=0)
    most = reach * weight + 3 * np.sqrt(weight)
    along = np.clip(np.einsum("nji,nj->ni", axes, pull), -most, most)
    precision = inverse.T @ ((axes * weight[:, None, :]) @ axes.mT) @ inverse
    return Likelihoods(precision, np.einsum("nij,nj->ni", axes, along) @ inverse + precision @ mean)


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


def weakest_link(
    latent: Float[np.ndarray, "particle latent"], label: Int[np.ndarray, " particle"], components: int
) -> float:
    """The valley that must be crossed to reach every population from every other; 1 with one population.

    Of all ways from one to another the one with the mildest valleys counts, so that two ends of a curve are not apart
    while its middle is between them: the lowest ratio in the spanning tree of the highest.
    """
    ratio = np.ones((components, components))
    for first in range(components):
        for second in range(first):
            ratio[first, second] = ratio[second, first] = valley(latent[label == first], latent[label == second])
    inside, found = {0}, 1.0
    while len(inside) < components:
        outside = [number for number in range(components) if number not in inside]
        best, number = max((max(ratio[one, number] for one in inside), number) for number in outside)
        found = min(found, best)
        inside.add(number)
    return float(found)


def valley(first: Float[np.ndarray, "particle latent"], second: Float[np.ndarray, "other latent"]) -> float:
    """Lowest density between two sets of latents over the lower of the peaks at its sides, along their best axis.

    The axis is Fisher's discriminant; densities are histograms of the two sets together, smoothed by a twelfth of the
    distance of their means. Sets of fewer than `FEWEST` are not apart from anything.
    """
    if min(len(first), len(second)) < FEWEST:
        return 1.0
    spread = sum(np.cov(one.T).reshape(one.shape[1], -1) for one in (first, second))
    step = second.mean(0) - first.mean(0)
    axis = np.linalg.solve(spread + 1e-9 * np.trace(spread) * np.eye(len(step)), step)
    place = (np.concatenate([first, second]) - first.mean(0)) @ axis / (step @ axis)
    counts = np.histogram(place, np.linspace(-1, 2, 3 * BINS + 1))[0]
    density = gaussian_filter1d(counts.astype(float), BINS / 12)
    between = np.arange(BINS, 2 * BINS)
    lowest = between[density[between].argmin()]
    return float(density[lowest] / max(min(density[:lowest].max(initial=0), density[lowest:].max()), 1e-9))
