"""Clusters of latents: by k-means, by normal distributions, by density, or as a user gives them.

Numbers start at 1, in the order of the clusters' means along the first principal component: that is steadier than the
order of sizes, and neighbours in number are neighbours in shape. Cluster 0 is no cluster: particles that hdbscan calls
noise, or that a user leaves out. Clusters as decoded structures are those of `decoded_classes`.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from gaussemble.errors import InputError
from gaussemble.io.files import read_csv
from gaussemble.progress import say

DENSE = 20_000  # particles whose density is looked at; others join their nearest one's cluster
SMALLEST = 0.01  # share of the particles that makes a cluster of hdbscan
NEIGHBOURS = 15  # of a particle, by which hdbscan measures density


@dataclass(frozen=True)
class Clusters:
    """The cluster of each particle."""

    number: Int[np.ndarray, " particle"]  # from 1; 0: none
    probability: Float[np.ndarray, " particle"] | None = None  # of the particle's cluster, where the method says

    @property
    def sizes(self) -> Int[np.ndarray, " cluster"]:
        """Particles of cluster 1, 2, ..."""
        return np.bincount(self.number)[1:]

    def table(self, particle: Int[np.ndarray, " particle"]) -> pd.DataFrame:
        """Columns particle, cluster and, where there is one, probability."""
        columns = {"particle": particle, "cluster": self.number}
        return pd.DataFrame(columns | ({} if self.probability is None else {"probability": self.probability}))


def find_clusters(
    pc: Float[np.ndarray, "particle component"],
    clusters: int,
    method: str = "kmeans",
    seed: int = 0,
    smallest: int | None = None,
) -> Clusters:
    """Clusters of principal coordinates, numbered along pc1; fewer than asked for where fewer points are distinct.

    Args:
        pc: coordinates.
        clusters: how many; hdbscan finds that by itself.
        method: kmeans, gaussian_mixture or hdbscan.
        seed: of where the search starts.
        smallest: fewest particles of a cluster of hdbscan; None: a hundredth of all.
    """
    if method == "hdbscan":
        return _dense(pc, smallest or max(5, round(SMALLEST * len(pc))), seed)
    if method == "gaussian_mixture":
        found = GaussianMixture(clusters, n_init=3, random_state=seed).fit(pc)
        return most_probable(found.predict_proba(pc), pc[:, 0])
    with warnings.catch_warnings():  # fewer distinct points than clusters: the caller looks at the labels
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        labels = KMeans(clusters, n_init=10, random_state=seed).fit_predict(pc)  # pyright: ignore[reportArgumentType]
    return Clusters(numbered(labels, pc[:, 0]))


def numbered(
    labels: Int[np.ndarray, " particle"], along: Float[np.ndarray, " particle"]
) -> Int[np.ndarray, " particle"]:
    """The same clusters with numbers from 1 in the order of their means of `along`; negative labels become 0."""
    found = np.unique(labels[labels >= 0])
    order = found[np.argsort([along[labels == label].mean() for label in found])]
    number = np.zeros(labels.max(initial=-1) + 2, dtype=np.int64)  # its last entry serves label -1
    number[order] = np.arange(1, len(order) + 1)
    return number[np.maximum(labels, -1)]


def most_probable(
    probability: Float[np.ndarray, "particle cluster"], along: Float[np.ndarray, " particle"]
) -> Clusters:
    """The most probable cluster of each particle, numbered along `along`, and its probability."""
    return Clusters(numbered(probability.argmax(axis=1), along), probability.max(axis=1))


def nearest_pair(
    pc: Float[np.ndarray, "particle component"], number: Int[np.ndarray, " particle"]
) -> tuple[int, int, float]:
    """The two clusters whose centres are nearest to each other, and how far they are."""
    found = np.unique(number[number > 0])
    center = np.stack([pc[number == each].mean(axis=0) for each in found])
    apart = np.linalg.norm(center[:, None] - center, axis=-1) + np.diag(np.full(len(found), np.inf))
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    return int(found[first]), int(found[second]), float(apart.min())


def _dense(pc: Float[np.ndarray, "particle component"], smallest: int, seed: int) -> Clusters:
    """Regions of high density (HDBSCAN: Campello, Moulavi & Sander 2013); what lies between them is in none."""
    rows = np.arange(len(pc))
    if len(rows) > DENSE:
        rows = np.sort(np.random.default_rng(seed).choice(len(pc), DENSE, replace=False))
    least = max(5, round(smallest * len(rows) / len(pc)))
    few = min(NEIGHBOURS, len(rows) - 1)
    model = HDBSCAN(min_cluster_size=least, min_samples=few, copy=True).fit(pc[rows])  # pyright: ignore[reportArgumentType]
    labels, probability = np.asarray(model.labels_), np.asarray(model.probabilities_)
    if len(rows) < len(pc):
        nearest = NearestNeighbors(n_neighbors=1).fit(pc[rows]).kneighbors(pc, return_distance=False)[:, 0]
        labels, probability = labels[nearest], probability[nearest]
    return Clusters(numbered(labels, pc[:, 0]), probability)


def read_labels(path: Path, particle: Int[np.ndarray, " particle"], in_file: int | None = None) -> Clusters:
    """A user's own clusters: a table with the columns particle (row of the input file, from 0) and cluster (from 1).

    Labels of another split's particles are left aside, so that one file serves all. Symmetry copies of a particle share
    its number, and its cluster.

    Args:
        path: the table (CSV).
        particle: of every row that wants a cluster.
        in_file: particles of the input file, if known; then numbers beyond are refused.
    """
    table = read_csv(path, ["particle", "cluster"])
    for name, beyond in (("particle", np.inf if in_file is None else in_file), ("cluster", np.inf)):
        values = table[name].to_numpy(np.float64)
        good = (values % 1 == 0) & (values >= 0) & (values < beyond)
        if not good.all():
            row, most = int(good.argmin()), "" if np.isinf(beyond) else f" to {beyond - 1}, the input's last row"
            raise InputError(f"{path}: row {row + 1}: {name} is {values[row]:g}; expected a whole number from 0{most}")
    of = table.astype({"particle": int, "cluster": int}).drop_duplicates(["particle", "cluster"]).set_index("particle")
    if not of.index.is_unique:
        number = of.index[of.index.duplicated()][0]
        raise InputError(f"{path}: particle {number} stands in more than one cluster; give one row for each particle")
    missing = ~np.isin(particle, of.index)
    if missing.any():
        raise InputError(
            f"{path}: no cluster of particle {particle[missing][0]}, one of {missing.sum()} that have none of "
            f"{len(particle)}; give each a row, with cluster 0 for those that belong to none"
        )
    number = of["cluster"].loc[particle].to_numpy()
    if not number.any():
        raise InputError(f"{path}: all particles are in cluster 0, which is none; number clusters from 1")
    others = len(of) - len(np.unique(particle))
    say(f"latent: clusters from {path}" + (f"; {others} of its particles are not in this split" if others else ""))
    return Clusters(number)
