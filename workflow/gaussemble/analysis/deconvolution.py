"""Where particles are in latent space, when it is not known well of any: mixtures fitted through each one's error.

Extreme deconvolution (Bovy, Hogg & Roweis, Ann. Appl. Stat. 5, 1657 (2011)): the particles' true latents are drawn
from K normal distributions, and what is seen of each is a normal likelihood of its own width and orientation. k-means
and ordinary mixtures take the latents as they are: a cluster is then drawn out along what a view does not show, and
particles seen badly are counted like those seen well.

A likelihood is held as its precision Λ and information η, exp(-z'Λz/2 + η'z), which exist also where a view says
nothing at all along some axis (Λ has then no inverse).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import logsumexp
from sklearn.cluster import KMeans

ITERATIONS = 300  # of expectation and maximisation
SETTLED = 1e-5  # nats a particle: a gain below it ends them
FITTED = 20_000  # of more particles, a random sample of so many is fitted
BLOCK = 50_000  # particles at a time
NARROWEST = 1e-4  # variance of a component, as a share of that of all latents


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
class Populations:
    """A mixture of normal distributions of latents."""

    share: Float64[np.ndarray, " component"]
    mean: Float64[np.ndarray, "component latent"]
    covariance: Float64[np.ndarray, "component latent latent"]

    @property
    def parameters(self) -> int:
        """Free numbers."""
        components, latent = self.mean.shape
        return components - 1 + components * (latent + latent * (latent + 1) // 2)


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


def _log_evidence(
    seen: Likelihoods, populations: Populations
) -> tuple[
    Float64[np.ndarray, "particle component"],
    Float64[np.ndarray, "particle component latent"],
    Float64[np.ndarray, "particle component latent latent"],
]:
    """Log share x evidence of each particle in each component, and its posterior means and covariances there.

    The evidence is relative to that of a particle known to stand at latent 0.
    """
    inverse = np.linalg.inv(populations.covariance)
    pull = np.einsum("kij,kj->ki", inverse, populations.mean)
    total = seen.precision[:, None] + inverse
    covariance = np.linalg.inv(total)
    target = seen.information[:, None] + pull
    mean = np.einsum("nkij,nkj->nki", covariance, target)
    gain = (target * mean).sum(-1) - (pull * populations.mean).sum(-1)
    widths = np.linalg.slogdet(total)[1] + np.linalg.slogdet(populations.covariance)[1]
    return np.log(populations.share) + 0.5 * (gain - widths), mean, covariance


def log_evidence(seen: Likelihoods, populations: Populations) -> Float64[np.ndarray, " particle"]:
    """Log evidence of each particle under the mixture, relative to a particle known to stand at latent 0."""
    return np.asarray(logsumexp(_log_evidence(seen, populations)[0], axis=1))


def memberships(seen: Likelihoods, populations: Populations) -> Float64[np.ndarray, "particle component"]:
    """Probability of each component, given the particle."""
    blocks = np.array_split(np.arange(len(seen)), -(-len(seen) // BLOCK))
    log = np.concatenate([_log_evidence(seen[rows], populations)[0] for rows in blocks])
    return np.exp(log - logsumexp(log, axis=1, keepdims=True))


def posterior_means(seen: Likelihoods, populations: Populations) -> Float64[np.ndarray, "particle latent"]:
    """Each particle's mean latent when the mixture is its prior."""
    log, mean, _ = _log_evidence(seen, populations)
    weight = np.exp(log - logsumexp(log, axis=1, keepdims=True))
    return (weight[..., None] * mean).sum(1)


def bayesian_information(seen: Likelihoods, populations: Populations) -> float:
    """Schwarz's criterion; smaller is better."""
    return float(populations.parameters * np.log(len(seen)) - 2 * log_evidence(seen, populations).sum())


def deconvolve(seen: Likelihoods, components: int, seed: int = 0, starts: int = 2) -> Populations:
    """The mixture of so many components under which the particles are likeliest, the best of some starts."""
    if len(seen) > FITTED:
        seen = seen[np.sort(np.random.default_rng(seed).choice(len(seen), FITTED, replace=False))]
    whole = _maximise(seen, _one(seen))
    if components == 1:
        return whole
    centers = posterior_means(seen, whole)
    fits = [_maximise(seen, _start(centers, whole, components, seed + number)) for number in range(starts)]
    return max(fits, key=lambda fit: log_evidence(seen, fit).sum())


def _one(seen: Likelihoods) -> Populations:
    """A single component, as wide as the estimates err; also along axes of which no view says anything."""
    values, axes = np.linalg.eigh(seen.precision.sum(0))
    told = values > 1e-6 * max(values.max(), 1e-300)
    inverse = np.where(told, 1 / np.where(told, values, 1.0), 0.0)
    mean = (axes * inverse) @ axes.T @ seen.information.sum(0)
    width = len(seen) * inverse.sum() / max(told.sum(), 1)
    return Populations(np.ones(1), mean[None], (width or 1.0) * np.eye(len(mean))[None])


def _start(centers: np.ndarray, whole: Populations, components: int, seed: int) -> Populations:
    """Components at k-means centres, each as wide as its share of the whole."""
    with warnings.catch_warnings():  # where there are fewer distinct places, some components stand in one
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        means = KMeans(components, n_init="auto", random_state=seed).fit(centers)
    share = np.bincount(np.asarray(means.labels_), minlength=components) / len(centers)
    width = whole.covariance[0] / components ** (2 / centers.shape[1])
    return Populations(share.clip(min=1e-6), np.asarray(means.cluster_centers_, float), np.stack([width] * components))


def _maximise(seen: Likelihoods, start: Populations) -> Populations:
    """Expectation and maximisation until they settle."""
    populations, before = start, -np.inf
    narrowest = NARROWEST * np.trace(start.covariance.mean(0)) / start.mean.shape[1] * np.eye(start.mean.shape[1])
    for _ in range(ITERATIONS):
        log, mean, covariance = _log_evidence(seen, populations)
        each = np.asarray(logsumexp(log, axis=1, keepdims=True))
        weight = np.exp(log - each)
        total = weight.sum(0).clip(min=1e-9)
        center = np.einsum("nk,nki->ki", weight, mean) / total[:, None]
        off = mean - center
        spread = np.einsum("nk,nkij->kij", weight, covariance + off[..., :, None] * off[..., None, :])
        populations = Populations(total / len(seen), center, spread / total[:, None, None] + narrowest)
        now = float(each.mean())
        if now - before < SETTLED:
            break
        before = now
    return populations
