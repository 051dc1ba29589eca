"""The states whose maps the stage `volumes` makes: clusters, points of trajectories, and selections of the user's.

Distances between latents are those of the stage `latent`, in its principal coordinates (embedding.csv). A trajectory
point's map is made of the particles nearest to it, or of all, each as often as its posterior says that it is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from gaussemble.analysis.latent import latent_columns
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv
from gaussemble.io.posteriors import read_posteriors
from gaussemble.io.store import ImageStore

Weighting = Literal["nearest", "posterior"]
NEGLIGIBLE = 1e-3  # of the particle that counts most: those below are left out, since each costs as much as any other


@dataclass(frozen=True)
class State:
    """One map to make."""

    name: str  # of its folder
    rows: Int[Tensor, " image"]  # its particles' rows in the store, ascending
    latent: Float[Tensor, " latent"]  # what its decoded map is decoded from
    count: Float[Tensor, " image"] | None = None  # how often each counts; once if None

    @property
    def effective(self) -> float:
        """As many particles, counted once each, would have as much noise: (sum w)² / sum w²."""
        if self.count is None:
            return float(len(self.rows))
        return float(self.count.sum().square() / self.count.square().sum())

    @property
    def subset(self) -> Int[np.ndarray, " image"]:
        """The rows for other programs: all, or of particles that count unlike as many as they amount to, the most."""
        if self.count is None:
            return self.rows.numpy()
        order = torch.argsort(self.count, descending=True, stable=True)
        return np.sort(self.rows[order[: max(1, round(self.effective))]].numpy())


@dataclass(frozen=True)
class Latents:
    """The particles of an analysis in its latent space, in the order of its tables."""

    path: Path
    table: pd.DataFrame  # embedding.csv
    rows: Int[np.ndarray, " particle"]  # in the store

    @cached_property
    def z(self) -> Float[np.ndarray, "particle latent"]:
        """Latent vectors as the model knows them."""
        return self.table[latent_columns(self.table)].to_numpy(np.float64)

    @cached_property
    def pc(self) -> Float[np.ndarray, "particle component"]:
        """Principal coordinates, in which distances count."""
        return self.table[latent_columns(self.table, "pc")].to_numpy(np.float64)

    @cached_property
    def turn(self) -> Float[np.ndarray, "latent component"]:
        """Of a step in z the step in the principal coordinates: the table's own affine map, by least squares."""
        z, pc = self.z - self.z.mean(axis=0), self.pc - self.pc.mean(axis=0)
        return np.linalg.lstsq(z, pc, rcond=None)[0]

    def coordinates(self, z: Float[np.ndarray, "point latent"]) -> Float[np.ndarray, "point component"]:
        """Principal coordinates of any latents."""
        return (z - self.z.mean(axis=0)) @ self.turn + self.pc.mean(axis=0)

    def middle(self, own: Int[np.ndarray, " chosen"]) -> Float[Tensor, " latent"]:
        """The latent of some particles that is nearest to their mean: one that really occurs."""
        return torch.tensor(self.z[own[nearest_rows(self.pc[own], self.pc[own].mean(axis=0), 1)[0]]])


def nearest_rows(
    z: Float[np.ndarray, "particle latent"], point: Float[np.ndarray, " latent"], count: int
) -> Int[np.ndarray, " chosen"]:
    """The particles nearest to a point (Euclidean), in ascending order."""
    distance = np.square(z - point).sum(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:count])


def row_keys(particle: ArrayLike) -> pd.MultiIndex:
    """(particle, copy) of each row: symmetry expansion's copies of a particle stand in the same order everywhere."""
    particle = pd.Series(particle)
    return pd.MultiIndex.from_arrays([particle, particle.groupby(particle).cumcount()])


def store_rows(path: Path, table: pd.DataFrame, store: ImageStore) -> Int[np.ndarray, " row"]:
    """The store's row of each particle of a table; raises InputError for a particle that the store does not have."""
    index = row_keys(store.particles.particle.numpy()).get_indexer(row_keys(table["particle"]))
    if (index < 0).any():
        row = int((index < 0).argmax())
        raise InputError(
            f"{path}: row {row + 1}: particle {table['particle'].iloc[row]} is not in {store.folder}; "
            "both must come from the same split"
        )
    return index


def read_latents(folder: Path, store: ImageStore) -> Latents:
    """The particles of an analysis; raises InputError where the stage latent has not left them as they must be."""
    path = folder / "latent" / "embedding.csv"
    table = read_csv(path, ["particle", "z1", "pc1"])
    return Latents(path, table, store_rows(path, table, store))


def cluster_states(folder: Path, latents: Latents, store: ImageStore) -> Iterator[State]:
    """The clusters; a number below 1 is none."""
    path = folder / "latent" / "clusters.csv"
    table = read_csv(path, ["particle", "cluster"])
    position = row_keys(latents.table["particle"]).get_indexer(row_keys(table["particle"]))
    if (position < 0).any():
        raise InputError(
            f"{path}: {(position < 0).sum()} particles are not in {latents.path.name}; run the stage latent again"
        )
    rows = store_rows(path, table, store)
    for cluster in sorted(number for number in table["cluster"].unique() if number >= 1):
        members = (table["cluster"] == cluster).to_numpy()
        chosen = torch.from_numpy(np.sort(rows[members]))
        yield State(f"cluster_{int(cluster)}", chosen, latents.middle(position[members]))


def trajectory_states(folder: Path, latents: Latents, count: int, weighting: Weighting) -> Iterator[State]:
    """The points of every trajectory, each with `count` particles, or with all as if they were so many."""
    covariance = spreads(folder, latents) if weighting == "posterior" else None
    for path in sorted((folder / "latent" / "trajectories").glob("pc*.csv")):
        names = [f"z{axis + 1}" for axis in range(latents.z.shape[1])]
        table = read_csv(path, ["point", *names])
        latent = table[names].to_numpy(np.float64)
        for number, z, at in zip(table["point"], latent, latents.coordinates(latent), strict=True):
            name = f"trajectory_{path.stem}_{number}"
            if covariance is None:
                chosen = np.sort(latents.rows[nearest_rows(latents.pc, at, count)])
                yield State(name, torch.from_numpy(chosen), torch.tensor(z))
            else:
                yield weighted_state(name, latents, posterior_counts(latents.pc, covariance, at, count), z)


def selection_states(selected: dict[str, Int[np.ndarray, " row"]], latents: Latents) -> Iterator[State]:
    """The user's selections, by name; one that this split has nothing of is decoded where all particles are."""
    for name, rows in selected.items():
        own = np.flatnonzero(np.isin(latents.rows, rows))
        latent = latents.middle(own if len(own) else np.arange(len(latents.rows)))
        yield State(f"selection_{name}", torch.from_numpy(rows), latent)


def weighted_state(
    name: str, latents: Latents, counts: Float[np.ndarray, " particle"], latent: Float[np.ndarray, " latent"]
) -> State:
    """A state of all particles that count for something."""
    chosen = np.flatnonzero(counts >= NEGLIGIBLE * counts.max())
    chosen = chosen[np.argsort(latents.rows[chosen])]
    rows, count = torch.from_numpy(latents.rows[chosen]), torch.from_numpy(counts[chosen]).float()
    return State(name, rows, torch.tensor(latent), count)


def spreads(folder: Path, latents: Latents) -> Float[np.ndarray, "particle component component"]:
    """Each particle's posterior covariance in principal coordinates."""
    path = folder / "heterogeneity" / "posterior.npz"
    posteriors = read_posteriors(path)
    if not np.array_equal(posteriors.particle, latents.table["particle"]):
        raise InputError(f"{path}: not the particles of {latents.path}; run the stages heterogeneity and latent again")
    return np.einsum("lc,nlm,md->ncd", latents.turn, posteriors.covariance, latents.turn)


def posterior_counts(
    pc: Float[np.ndarray, "particle component"],
    covariance: Float[np.ndarray, "particle component component"],
    point: Float[np.ndarray, " component"],
    count: int,
) -> Float[np.ndarray, " particle"]:
    """How often each particle counts at a point, at most 1: its posterior's density there, widened by a common kernel.

    w_i ∝ N(point; mean_i, C_i + b² 1), with the least b >= 0 for which (sum w)² / sum w² is `count`: particles that
    are surely elsewhere do not count, those that may be there a little.
    """
    value, axes = np.linalg.eigh(covariance)
    value = np.maximum(value, 0)
    along = np.square(np.einsum("nc,nck->nk", point - pc, axes))

    def counts(width: float) -> Float[np.ndarray, " particle"]:
        variance = value + width**2 + 1e-12
        logarithm = -0.5 * (along / variance + np.log(variance)).sum(axis=1)
        return np.exp(logarithm - logarithm.max())

    def amount(width: float) -> float:
        weight = counts(width)
        return float(weight.sum() ** 2 / np.square(weight).sum())

    low, high = 0.0, 10 * float(np.sqrt(along.sum(axis=1).max())) + 1e-6
    if amount(low) >= count:
        return counts(low)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if amount(middle) < count else (low, middle)
    return counts(high)
