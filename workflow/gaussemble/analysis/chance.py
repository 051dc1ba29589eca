"""Whether anything varies at all: what the latents must be able to deny.

A network finds latents in pure noise too. One number says whether there is more, in nats a particle, over particles
that were kept from training, with its standard error: the evidence of the particles when their latents are drawn from a
normal distribution (fitted to the training particles' through each one's own error), over the evidence when all stand
at the one latent that suits them best. If nothing varies, no density of images explains new ones better on average than
the right one, so the expected gain is not above 0, however much was fitted (Gibbs' inequality).

A particle's likelihood is held as its precision Λ and information η, exp(-z'Λz/2 + η'z), which exist also where a view
says nothing at all along some axis (Λ has then no inverse).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.stats import norm

LEAST = 0.01  # nats a particle: less is called nothing, however sure it is
SURE = 3.0  # standard errors
FITTED = 5000  # training particles to which the distribution is fitted, at most
ITERATIONS = 300  # of expectation and maximisation
SETTLED = 1e-5  # nats a particle: a gain below it ends them
NARROWEST = 1e-4  # of the first variance: so much is added in each


@dataclass(frozen=True)
class Likelihoods:
    """What the images say of each particle's latent, without any prior."""

    precision: Float64[np.ndarray, "particle latent latent"]
    information: Float64[np.ndarray, "particle latent"]

    def __len__(self) -> int:
        return len(self.information)

    def __getitem__(self, rows: np.ndarray) -> "Likelihoods":
        """Those of some particles."""
        return Likelihoods(self.precision[rows], self.information[rows])


@dataclass(frozen=True)
class Normal:
    """A distribution of latents."""

    mean: Float64[np.ndarray, " latent"]
    covariance: Float64[np.ndarray, "latent latent"]


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

    @property
    def sentence(self) -> str:
        """In words."""
        gain = f"{self.mean:.3g} ± {self.error:.2g} nats a held-out particle"
        return f"particles vary: {gain}" if self.beyond_chance else f"nothing varies beyond chance: {gain}"


def variation(
    seen: Likelihoods,
    held_out: Bool[np.ndarray, " row"],
    seed: int = 0,
    particle: Int[np.ndarray, " row"] | None = None,
) -> Gain:
    """What a spread of latents adds to the evidence of particles that were kept from training.

    Args:
        seen: what the images say of each latent, without the prior (`likelihoods`).
        held_out: particles that were kept from training; without any, every tenth is taken, which is lenient.
        seed: of the training particles that are chosen, where they are many.
        particle: number of each row's particle, where rows may be copies of one.
    """
    if not held_out.any():
        held_out = np.arange(len(seen)) % 10 == 0
    rows = np.flatnonzero(~held_out)
    if len(rows) > FITTED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FITTED, replace=False))
    training, others = seen[rows], seen[held_out]
    spread = log_evidence(others, fit_normal(training))
    own = None if particle is None else particle[held_out]
    return gain(spread - point_evidence(others, best_point(training)), own)


def likelihoods(
    latent: Float[np.ndarray, "particle latent"],
    covariance: Float[np.ndarray, "particle latent latent"],
    prior_mean: Float[np.ndarray, " latent"],
    prior_covariance: Float[np.ndarray, "latent latent"],
) -> Likelihoods:
    """Normal posteriors without the normal prior that went into them."""
    posterior, prior = np.linalg.inv(covariance.astype(float)), np.linalg.inv(prior_covariance.astype(float))
    information = np.einsum("nij,nj->ni", posterior, latent.astype(float)) - prior @ prior_mean
    values, axes = np.linalg.eigh(posterior - prior)  # rounding may leave it a little negative
    return Likelihoods((axes * values.clip(min=0)[:, None, :]) @ axes.mT, information)


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


def fit_normal(seen: Likelihoods) -> Normal:
    """The normal distribution under which the particles are likeliest, through each one's own error.

    Extreme deconvolution (Bovy, Hogg & Roweis, Ann. Appl. Stat. 5, 1657 (2011)) with one component.
    """
    values = np.linalg.eigvalsh(seen.precision.sum(0))
    told = values > 1e-6 * max(values.max(), 1e-300)  # axes of which some view says something
    width = len(seen) * (1 / values[told]).mean() if told.any() else 1.0
    found, before = Normal(best_point(seen), width * np.eye(len(values))), -np.inf
    for _ in range(ITERATIONS):
        now, mean, covariance = posteriors_under(seen, found)
        if now.mean() - before < SETTLED:
            break
        before, center = float(now.mean()), mean.mean(0)
        off = mean - center
        spread = off.T @ off / len(seen) + covariance.mean(0)
        found = Normal(center, spread + NARROWEST * width * np.eye(len(values)))
    return found


def log_evidence(seen: Likelihoods, population: Normal) -> Float64[np.ndarray, " particle"]:
    """Log evidence of each particle, relative to one that is known to stand at latent 0."""
    return posteriors_under(seen, population)[0]


def posteriors_under(
    seen: Likelihoods, population: Normal
) -> tuple[
    Float64[np.ndarray, " particle"],
    Float64[np.ndarray, "particle latent"],
    Float64[np.ndarray, "particle latent latent"],
]:
    """Log evidence, posterior mean and posterior covariance of each particle."""
    inverse = np.linalg.inv(population.covariance)
    pull, total = inverse @ population.mean, seen.precision + inverse
    covariance, target = np.linalg.inv(total), seen.information + pull
    mean = np.einsum("nij,nj->ni", covariance, target)
    widths = np.linalg.slogdet(total)[1] + np.linalg.slogdet(population.covariance)[1]
    return 0.5 * ((target * mean).sum(-1) - pull @ population.mean - widths), mean, covariance


def gain(differences: Float[np.ndarray, " row"], particle: Int[np.ndarray, " row"] | None = None) -> Gain:
    """Mean and standard error.

    Copies of a particle (symmetry expansion) share its noise and are no further evidence: rows of one number in
    `particle` count as one in the error (Liang & Zeger, Biometrika 73, 13 (1986)).
    """
    mean = float(differences.mean())
    own = np.arange(len(differences)) if particle is None else np.unique(particle, return_inverse=True)[1]
    together = np.bincount(own, differences - mean)
    count = len(together)
    square = count / (count - 1) * np.square(together).sum() if count > 1 else np.inf
    return Gain(mean, float(np.sqrt(square)) / len(differences), count)


def best_point(seen: Likelihoods) -> Float64[np.ndarray, " latent"]:
    """The one latent at which all particles together are likeliest."""
    total = seen.precision.sum(0)
    return np.linalg.pinv(total, hermitian=True) @ seen.information.sum(0)


def point_evidence(seen: Likelihoods, point: Float[np.ndarray, " latent"]) -> Float64[np.ndarray, " particle"]:
    """Log likelihood of each particle at one latent, relative to that at latent 0."""
    return seen.information @ point - 0.5 * np.einsum("i,nij,j->n", point, seen.precision, point)
