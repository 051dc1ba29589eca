"""Latents of the same particles by the networks of both halves: how far do the two say the same?

Every particle was seen in training by one of the networks and never by the other. The numbers of two networks cannot be
compared axis by axis, so scores are used that do not depend on axes: canonical correlations, the Rand index of the
clusters that the particles fall into, the overlap of their neighbours. Both networks read the noise of the same image,
so none of these is zero where nothing varies: they mean something beside those of a null.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from gaussemble.analysis.chance import gain
from gaussemble.analysis.latent import axis_units, latent_columns
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv

HALVES = ("even", "odd")
NEIGHBORS, SAMPLE = 10, 3000  # neighbours that are compared, among at most so many particles


@dataclass(frozen=True)
class Shared:
    """Both halves' particles under both networks, in units of each network's uncertainty."""

    half: Bool[np.ndarray, " particle"]  # True: of the even half
    particle: Int[np.ndarray, " particle"]  # its number; copies of a particle share it
    even: Float[np.ndarray, "particle latent"]  # by the network of the even half
    odd: Float[np.ndarray, "particle latent"]
    gain: Float[np.ndarray, " particle"]  # nats over a rigid molecule, by the other half's network


def read_latents(even: Path, odd: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """latents.csv, and the unit of each axis of each network.

    Columns: particle, half (even or odd: of which it is), z_even1.., z_odd1.. (by the network of that half),
    sd_even1.., sd_odd1.., gain (nats over a rigid molecule, by the network that never saw the particle).

    Args:
        even: folder of the analysis of the even half, with heterogeneity/ and crossed/.
        odd: the same of the odd half.
    """
    folders = dict(zip(HALVES, (even, odd), strict=True))
    paths = {half: folder / "heterogeneity" / "latent.csv" for half, folder in folders.items()}
    own = {half: read_csv(path, ["particle", "z1"]) for half, path in paths.items()}
    parts = []
    for half, folder in folders.items():
        path, other = folder / "crossed" / "latent.csv", "odd" if half == "even" else "even"
        crossed = read_csv(path, ["particle", "z1", "gain"])
        if not np.array_equal(crossed["particle"], own[half]["particle"]):
            raise InputError(f"{path}: not the particles of {folder / 'heterogeneity'}; run the stage crossing again")
        if not np.isfinite(crossed["gain"]).all():
            raise InputError(f"{path}: particles without a gain, as an earlier version left them; run crossing again")
        named = pd.DataFrame({"particle": own[half]["particle"], "half": half})
        columns = [_renamed(own[half], half), _renamed(crossed, other), crossed[["gain"]]]
        parts.append(pd.concat([named, *columns], axis=1))
    names = ["particle", "half", *(f"{kind}_{half}" for kind in ("z", "sd") for half in HALVES), "gain"]
    table = pd.concat(parts, ignore_index=True)
    order = [column for name in names for column in table if str(column).rstrip("0123456789") == name]
    units = {half: axis_units(own[half], path, "uncertainty") for half, path in paths.items()}
    return pd.DataFrame(table[order]), units


def _renamed(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """z1, sd1, ... as z_even1, sd_even1, ..."""
    names = {f"z_{network}{name[1:]}": name for name in latent_columns(table)}
    names |= {f"sd_{network}{name[2:]}": name for name in latent_columns(table, "sd")}
    return pd.DataFrame({new: table[name] for new, name in names.items()})


def shared_of(table: pd.DataFrame, units: dict[str, np.ndarray]) -> Shared:
    """The table's latents in units of uncertainty."""
    even, odd = (table[latent_columns(table, f"z_{half}")].to_numpy(float) / units[half] for half in HALVES)
    half, particle = (table["half"] == "even").to_numpy(), table["particle"].to_numpy()
    return Shared(half, particle, even, odd, table["gain"].to_numpy(float))


def canonical(
    first: Float[np.ndarray, "particle latent"], second: Float[np.ndarray, "particle latent2"]
) -> tuple[Float[np.ndarray, " variate"], Float[np.ndarray, "particle variate"], Float[np.ndarray, "particle variate"]]:
    """Canonical correlations (Hotelling 1936), the highest first, and both lists in the frame that they share.

    A variate has the standard deviation 1.
    """
    bases = [_orthonormal(each - each.mean(0)) for each in (first, second)]
    left, correlation, right = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    length = np.sqrt(len(first))
    return correlation.clip(0, 1), length * bases[0] @ left, length * bases[1] @ right.T


def _orthonormal(values: Float[np.ndarray, "particle latent"]) -> Float[np.ndarray, "particle axis"]:
    """Orthonormal columns of the same span; axes along which nothing varies are left out."""
    base, size, _ = np.linalg.svd(values, full_matrices=False)
    return base[:, size > 1e-9 * max(size[0], 1e-300)]


def nearest_cluster(
    z: Float[np.ndarray, "particle latent"], centers: Float[np.ndarray, "cluster latent"]
) -> Int[np.ndarray, " particle"]:
    """The cluster whose centre is nearest to each particle, from 0."""
    return np.square(z[:, None] - centers).sum(-1).argmin(1)


def neighbor_overlap(
    first: Float[np.ndarray, "particle latent"], second: Float[np.ndarray, "particle latent2"], seed: int = 0
) -> tuple[float, float]:
    """The share of a particle's nearest ten in one list that are among them in the other, and what chance gives."""
    rows = np.random.default_rng(seed).permutation(len(first))[:SAMPLE]
    count = min(NEIGHBORS, len(rows) - 1)
    search = [NearestNeighbors(n_neighbors=count).fit(each[rows]) for each in (first, second)]
    near = [each.kneighbors(return_distance=False) for each in search]
    common = [len(np.intersect1d(*pair)) for pair in zip(*near, strict=True)]
    return float(np.mean(common)) / count, count / (len(rows) - 1)


def cluster_centers(
    z: Float[np.ndarray, "particle latent"], cluster: Int[np.ndarray, " particle"], numbers: Int[np.ndarray, " cluster"]
) -> Float[np.ndarray, "cluster latent"]:
    """Mean latent of each cluster."""
    return np.stack([z[cluster == number].mean(0) for number in numbers])


def arrangement(
    even: Float[np.ndarray, "match latent"], odd: Float[np.ndarray, "match latent2"]
) -> dict[str, float | int | None]:
    """How alike the distances between matched clusters' centres are in the two halves.

    Keys: distances (their number), correlation (Pearson's), rank_correlation (Spearman's); None for fewer than three.
    """
    pairs = np.triu_indices(len(even), 1)
    first, second = (np.linalg.norm(each[:, None] - each[None], axis=-1)[pairs] for each in (even, odd))
    if len(first) < 3:
        return {"distances": len(first), "correlation": None, "rank_correlation": None}
    rank: Any = spearmanr(first, second)
    return {
        "distances": len(first),
        "correlation": float(np.corrcoef(first, second)[0, 1]),
        "rank_correlation": float(rank.statistic),
    }


def latent_scores(shared: Shared, centers: dict[str, Float[np.ndarray, "cluster latent"]]) -> dict[str, Any]:
    """Keys: particles, canonical_correlations, rand_index, neighbor_overlap, neighbor_chance.

    rand_index is None where a half has one cluster: two divisions that divide nothing agree by nothing.
    """
    labels = [nearest_cluster(getattr(shared, half), centers[half]) for half in HALVES]
    overlap, chance = neighbor_overlap(shared.even, shared.odd)
    return {
        "particles": len(shared.half),
        "canonical_correlations": [round(float(each), 4) for each in canonical(shared.even, shared.odd)[0]],
        "rand_index": float(adjusted_rand_score(*labels)) if min(map(len, centers.values())) > 1 else None,
        "neighbor_overlap": overlap,
        "neighbor_chance": chance,
    }


def evidence_scores(shared: Shared) -> dict[str, Any]:
    """Nats a particle over a rigid molecule: even and odd (whose particles they are), and both together.

    Each has gain, error (standard error), probability (one-sided, of so much where nothing varies), beyond_chance.
    """
    found = {}
    every = np.ones(len(shared.half), bool)
    for name, rows in {"even": shared.half, "odd": ~shared.half, "both": every}.items():
        each = gain(shared.gain[rows], shared.particle[rows])
        found[name] = {
            "gain": each.mean,
            "error": each.error,
            "probability": each.probability,
            "beyond_chance": each.beyond_chance,
        }
    return found
