"""Mixtures of normal distributions of latents, each particle through its own error.

A particle's latent is drawn from one of K normal distributions and seen with the precision of its own view (Bovy, Hogg
& Roweis, Ann. Appl. Stat. 5, 1657 (2011)). Latents that are drawn to the prior by poor views make no clusters of their
own then, as they do where a mixture is fitted to the estimates themselves.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from gaussemble.analysis.chance import Likelihoods, Normal, fit_normal, posteriors_under

TRIED = 2000  # particles, evenly from all, to which each number of components is fitted
FITTED = 6000  # particles to which the components are fitted that share all particles out
ITERATIONS = 60  # of expectation and maximisation
SETTLED = 1e-4  # nats a particle: a gain below it ends them
NARROWEST = 1e-3  # of the whole spread: so much is added to each variance


@dataclass(frozen=True)
class Population:
    """A mixture of normal distributions of latents."""

    share: Float64[np.ndarray, " component"]
    normals: tuple[Normal, ...]

    def __len__(self) -> int:
        return len(self.share)

    @property
    def parameters(self) -> int:
        """Free numbers: means, covariances, and shares that sum to 1."""
        latent = len(self.normals[0].mean)
        return len(self) * (latent + latent * (latent + 1) // 2) + len(self) - 1


def number_table(seen: Likelihoods, most: int, seed: int = 0) -> pd.DataFrame:
    """Columns clusters, log_evidence (nats a particle, less that of one cluster), bic (less the lowest).

    The Bayesian information criterion is -2 x the sum of log evidences + parameters x log(particles) (Schwarz 1978).
    Numbers from 1 to `most` are tried, until it has risen twice in a row.
    """
    seen, rows = evenly(seen, TRIED), []
    whole = fit_normal(seen)
    for clusters in range(1, most + 1):
        found = fit_population(seen, clusters, seed, whole)
        value = log_evidence(seen, found)
        rows.append((clusters, value.mean(), -2 * value.sum() + found.parameters * np.log(len(seen))))
        if clusters > 2 and rows[-1][2] > rows[-2][2] > rows[-3][2]:
            break
    table = pd.DataFrame(rows, columns=["clusters", "log_evidence", "bic"])
    return table.assign(log_evidence=table["log_evidence"] - rows[0][1], bic=table["bic"] - table["bic"].min())


def evenly(seen: Likelihoods, most: int) -> Likelihoods:
    """At most so many particles, evenly from all."""
    return seen[np.arange(0, len(seen), -(-len(seen) // most))]


def shared_out(seen: Likelihoods, components: int, seed: int = 0) -> Float64[np.ndarray, "particle component"]:
    """Probability of each of so many components for each particle."""
    return memberships(seen, fit_population(evenly(seen, FITTED), components, seed))


def fit_population(seen: Likelihoods, components: int, seed: int = 0, whole: Normal | None = None) -> Population:
    """The mixture under which the particles are likeliest, from where k-means of their best latents starts.

    `whole` is that of one component, if known.
    """
    whole = whole or fit_normal(seen)
    if components == 1:
        return Population(np.ones(1), (whole,))
    floor = NARROWEST * whole.covariance
    found = _started(seen, whole, components, seed)
    before = -np.inf
    for _ in range(ITERATIONS):
        terms = [posteriors_under(seen, normal) for normal in found.normals]
        logs = np.stack([term[0] for term in terms]) + np.log(found.share)[:, None]
        total = logsumexp(logs, axis=0)
        if total.mean() - before < SETTLED:
            break
        before, weight = float(total.mean()), np.exp(logs - total)
        share = np.maximum(weight.sum(1), 1e-3)
        pairs = zip(weight / share[:, None], terms, strict=True)
        found = Population(share / share.sum(), tuple(_moments(part, *term[1:], floor) for part, term in pairs))
    return found


def log_evidence(seen: Likelihoods, population: Population) -> Float64[np.ndarray, " particle"]:
    """Log evidence of each particle, relative to one that is known to stand at latent 0."""
    return logsumexp(_logs(seen, population), axis=0)


def memberships(seen: Likelihoods, population: Population) -> Float64[np.ndarray, "particle component"]:
    """Probability of each component for each particle."""
    logs = _logs(seen, population)
    return np.exp(logs - logsumexp(logs, axis=0)).T


def _logs(seen: Likelihoods, population: Population) -> Float64[np.ndarray, "component particle"]:
    terms = [posteriors_under(seen, normal)[0] for normal in population.normals]
    return np.stack(terms) + np.log(population.share)[:, None]


def _started(seen: Likelihoods, whole: Normal, components: int, seed: int) -> Population:
    """Equal shares at the centres of k-means, each as wide as a component of many is."""
    _, mean, _ = posteriors_under(seen, whole)
    root = np.linalg.cholesky(whole.covariance)
    unit = np.linalg.solve(root, (mean - whole.mean).T).T
    centers = KMeans(components, n_init=4, random_state=seed).fit(unit).cluster_centers_  # pyright: ignore[reportArgumentType]
    narrow = whole.covariance / components
    normals = tuple(Normal(whole.mean + root @ center, narrow) for center in centers)
    return Population(np.full(components, 1 / components), normals)


def _moments(
    weight: Float[np.ndarray, " particle"],
    mean: Float64[np.ndarray, "particle latent"],
    covariance: Float64[np.ndarray, "particle latent latent"],
    floor: Float64[np.ndarray, "latent latent"],
) -> Normal:
    """The normal distribution of weighted posteriors; weights sum to 1."""
    center = weight @ mean
    off = mean - center
    spread = (weight[:, None] * off).T @ off + np.einsum("n,nij->ij", weight, covariance)
    return Normal(center, spread + floor)
