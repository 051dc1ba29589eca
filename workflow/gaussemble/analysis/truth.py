"""Stage truth: how much of the known motion and occupancy of simulated particles an analysis found.

Beside the scores of the analysis stands the Bayes-optimal one: each particle is compared, at its own pose, CTF and
shift and with the noise as it was measured, with the true structures of every state. No method that sees the images to
the same resolution can do better on average, so the ratio of the two says how far the analysis is from the limit.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gaussemble.analysis.latent import latent_columns
from gaussemble.errors import InputError
from gaussemble.fit.band import open_band
from gaussemble.fit.particles import read_noise
from gaussemble.fit.subspace import PADDING, normal_equations
from gaussemble.io.files import read_csv, write_json
from gaussemble.io.mrc import read_map
from gaussemble.io.states import States, read_states
from gaussemble.io.store import ImageStore, open_store
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import volume_grids
from gaussemble.physics.rings import resolution, ring_frequencies, shell_correlation
from gaussemble.prepare.simulate import component_maps
from gaussemble.progress import progress, say

BLOCK = 256  # particles compared with the states at a time
COLUMNS = ("swing", "occupied")


class Options(StageOptions):
    """How the scores are taken."""

    resolution: float = Field(default=12.0, gt=0, description="Å, to which the particles are compared with the states")
    neighbours: int = Field(default=32, gt=0, description="nearest latents whose mean swing predicts a particle's")
    folds: int = Field(default=5, ge=2, description="parts of the cross-validation")
    swing_tolerance: float = Field(
        default=0.15, gt=0, description="largest difference of the mean swings of matched classes, as part of the range"
    )
    occupied_tolerance: float = Field(
        default=0.15, gt=0, description="largest difference of the occupied fractions of matched classes"
    )
    seed: int = Field(default=0, ge=0, description="of the folds")


@dataclass(frozen=True)
class Posterior:
    """What the true structures say of each particle."""

    swing: Float[np.ndarray, " image"]  # degrees, mean
    deviation: Float[np.ndarray, " image"]  # degrees
    occupied: Float[np.ndarray, " image"]  # probability
    scale: float  # of the stored images' signal over the simulated one's


def truth(
    *,
    truth: Path,
    states: Path,
    particles: Path,
    consensus: Path,
    analysis: Path,
    out: Path,
    options: Options,
    agreement: Path | None = None,
    even: Path | None = None,
    odd: Path | None = None,
) -> None:
    """Score an analysis of simulated particles and write the scores as JSON.

    Args:
        truth: truth.csv of the simulation.
        states: states.npz of the simulation.
        particles: folder of the image store of this split.
        consensus: folder of this split's consensus; noise.csv and mask.mrc are read.
        analysis: folder of the analysis, with heterogeneity, latent and volumes in it.
        out: JSON file to write.
        options: the stage's options.
        agreement: folder with matches.csv; with `even` and `odd`, the matched classes are compared as well.
        even: folder of the same analysis of the even half.
        odd: folder of the same analysis of the odd half.

    Raises:
        InputError: a file is missing, or particles without a truth.
    """
    known = read_csv(truth, ["particle", "swing", "occupied"]).set_index("particle")
    grid, store = read_states(states), open_store(particles)
    scores: dict[str, Any] = {"particles": len(store)}
    scores["analysis"] = latent_scores(known, analysis, options)
    scores["oracle"] = oracle_scores(store, grid, known, consensus, options)
    for name in ("swing_r2", "occupancy_linear_probe"):
        ours, best = scores["analysis"][name], scores["oracle"][name]
        scores[f"{name}_of_oracle"] = ours / best if ours is not None and best else None
    scores["clusters"] = cluster_scores(known, grid, analysis, read_map(consensus / "mask.mrc").voxels)
    if agreement is not None and even is not None and odd is not None:
        scores["matches"] = match_scores(known, agreement / "matches.csv", (even, odd), options)
    write_json(out, scores)
    for line in summary(scores):
        say(line)


# --- the latents -----------------------------------------------------------------------------------------------------


def rows_of(known: pd.DataFrame, particle: Any, path: Path) -> pd.DataFrame:
    """The truth of some particles, in their order; raises InputError where there is none."""
    particle = pd.Index(particle)
    missing = particle.difference(known.index)
    if len(missing):
        raise InputError(f"{path}: particle {missing[0]} has no row in truth.csv; give the truth of these particles")
    return known.loc[particle]


def latent_scores(known: pd.DataFrame, analysis: Path, options: Options) -> dict[str, float | None]:
    """Swing and occupancy as read from the latents and the clusters."""
    path = analysis / "heterogeneity" / "latent.csv"
    table = read_csv(path, ["particle", "z1"])
    latent = table[latent_columns(table)].to_numpy()
    found = rows_of(known, table["particle"], path)
    path = analysis / "latent" / "clusters.csv"
    clusters = read_csv(path, ["particle", "cluster"])
    return swing_scores(latent, found["swing"].to_numpy(), options) | {
        "occupancy_linear_probe": linear_probe(latent, found["occupied"].to_numpy(), options),
        "occupancy_clusters": majority_accuracy(
            clusters["cluster"].to_numpy(), rows_of(known, clusters["particle"], path)["occupied"].to_numpy()
        ),
    }


def swing_scores(
    latent: Float[np.ndarray, "image latent"], swing: Float[np.ndarray, " image"], options: Options
) -> dict[str, float | None]:
    """R² and root mean square error (degrees) of the swing by regression on the nearest latents, cross-validated."""
    if np.ptp(swing) == 0:
        return {"swing_r2": None, "swing_error": None}
    neighbours = min(options.neighbours, len(swing) * (options.folds - 1) // options.folds)
    predicted = cross_val_predict(KNeighborsRegressor(neighbours), latent, swing, cv=folds(options))
    return swing_recovery(swing, np.asarray(predicted))


def swing_recovery(swing: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """R² and root mean square error in degrees."""
    if np.ptp(swing) == 0:
        return {"swing_r2": None, "swing_error": None}
    error = float(np.sqrt(np.mean((swing - predicted) ** 2)))
    return {"swing_r2": float(r2_score(swing, predicted)), "swing_error": error}


def linear_probe(latent: np.ndarray, occupied: np.ndarray, options: Options) -> float | None:
    """Balanced accuracy of a logistic regression on the latents, cross-validated; None where all are alike."""
    if np.ptp(occupied) == 0:
        return None
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return float(balanced_accuracy_score(occupied, cross_val_predict(probe, latent, occupied, cv=folds(options))))


def majority_accuracy(cluster: np.ndarray, occupied: np.ndarray) -> float | None:
    """Balanced accuracy of calling each particle what most of its cluster is; None where all are alike."""
    if np.ptp(occupied) == 0:
        return None
    called = pd.Series(occupied).groupby(cluster).transform("mean").to_numpy() > 0.5
    return float(balanced_accuracy_score(occupied, called))


def folds(options: Options) -> KFold:
    """The parts of the cross-validation."""
    return KFold(options.folds, shuffle=True, random_state=options.seed)


# --- the Bayes-optimal score -----------------------------------------------------------------------------------------


def oracle_scores(
    store: ImageStore, states: States, known: pd.DataFrame, consensus: Path, options: Options
) -> dict[str, float | None]:
    """The scores of the posterior under the true structures."""
    found = rows_of(known, store.particles.particle.numpy(), store.folder)
    swing, occupied = found["swing"].to_numpy(), found["occupied"].to_numpy()
    state = states.nearest(torch.from_numpy(swing.astype(np.float32)), torch.from_numpy(occupied.astype(np.float32)))
    posterior = oracle(store, states, state, read_noise(consensus / "noise.csv", store), options.resolution)
    known_occupancy = np.ptp(occupied) == 0
    accuracy = None if known_occupancy else float(balanced_accuracy_score(occupied, posterior.occupied > 0.5))
    return swing_recovery(swing, posterior.swing) | {
        "occupancy_linear_probe": accuracy,
        "swing_deviation": float(np.sqrt(np.mean(posterior.deviation**2))),
        "scale": posterior.scale,
    }


def oracle(
    store: ImageStore,
    states: States,
    state: Int[Tensor, " image"],
    noise_power: Float[Tensor, "group ring"],
    finest: float,
) -> Posterior:
    """Posterior of the state of each particle.

    A particle's log-likelihood is `-1/2 |X - g sum_c w_sc T P_c|²` in the whitened band, with the projections P_c of
    the parts that add up to the states: `g b.w_s - g²/2 w_s.G w_s` up to a constant, with b = Re<TP, X> and
    G = Re<TP, TP>. One factor g for all, that of least squares at the true states, takes up the images' normalisation.

    Args:
        store: the particles.
        states: the grid.
        state: index of each particle's true state, for the factor and the prior of the occupancy alone.
        noise_power: of noise.csv.
        finest: Å, the end of the band.
    """
    band = open_band(store, noise_power, finest)
    field = store.box * store.pixel_size
    box = max(sampling_box(states, store.box, field), band.box)
    maps, weights = component_maps(states, box, field / box)
    grids = volume_grids(maps, PADDING)
    matched, norm = [], []
    blocks = progress(band.batches(BLOCK), "truth", total=-(-len(band) // BLOCK))
    for _, batch in blocks:
        products, gram = normal_equations(grids, batch)
        matched.append(products @ weights.mT)
        norm.append(torch.einsum("sc,icd,sd->is", weights, gram, weights))
    return posterior_of(torch.cat(matched).double(), torch.cat(norm).double(), states, state)


def sampling_box(states: States, box: int, field: float) -> int:
    """Voxels along an edge of `field` Å so that the structures' Gaussians are sampled without aliasing that matters."""
    return min(box, 2 * int(np.ceil(field / float(states.mixture.width.min()) * 0.375)))


def posterior_of(
    matched: Float[Tensor, "image state"],
    norm: Float[Tensor, "image state"],
    states: States,
    state: Int[Tensor, " image"],
) -> Posterior:
    """Means over the states, weighted with likelihood and prior (uniform in swing, the true share in occupancy)."""
    chosen = state[:, None]
    scale = float(matched.gather(1, chosen).sum() / norm.gather(1, chosen).sum())
    share = states.occupied[state].double().mean()
    prior = torch.where(states.occupied > 0.5, share, 1 - share).log()
    weight = torch.softmax(scale * matched - scale**2 / 2 * norm + prior, dim=1)
    swing = weight @ states.swing.double()
    variance = (weight @ states.swing.double().square() - swing.square()).clamp(min=0)
    occupied = weight @ states.occupied.double()
    return Posterior(swing.numpy(), variance.sqrt().numpy(), occupied.numpy(), scale)


# --- the classes -----------------------------------------------------------------------------------------------------


def class_table(known: pd.DataFrame, analysis: Path) -> pd.DataFrame:
    """Of each cluster (index): particles, mean swing and its deviation in degrees, occupied fraction."""
    path = analysis / "latent" / "clusters.csv"
    table = read_csv(path, ["particle", "cluster"])
    found = rows_of(known, table["particle"], path).assign(cluster=table["cluster"].to_numpy())
    return found.groupby("cluster").agg(
        particles=("swing", "size"),
        swing=("swing", "mean"),
        swing_deviation=("swing", lambda values: float(np.std(values))),
        occupied=("occupied", "mean"),
    )


def cluster_scores(known: pd.DataFrame, states: States, analysis: Path, mask: Tensor) -> list[dict[str, Any]]:
    """Each cluster's true composition, and the FSC of its map against the mean of its particles' true structures."""
    table = class_table(known, analysis)
    clusters = read_csv(analysis / "latent" / "clusters.csv").set_index("cluster")["particle"]
    paths = {cluster: analysis / "volumes" / f"cluster_{cluster}" / "map.mrc" for cluster in table.index}
    table = table[[path.is_file() for path in paths.values()]]  # the others were too small for a map
    if table.empty:
        return []
    density = read_map(paths[table.index[0]])
    maps, weights = component_maps(states, density.box, density.pixel_size)
    scores = []
    for cluster, row in table.iterrows():
        own = known.loc[clusters.loc[[cluster]]]
        state = states.nearest(*(torch.tensor(own[name].to_numpy(), dtype=torch.float32) for name in COLUMNS))
        expected = torch.einsum("c,czyx->zyx", weights[state].mean(0), maps)
        density = read_map(paths[cluster])
        curve = shell_correlation(density.voxels * mask, expected * mask)
        frequency = ring_frequencies(density.box, density.pixel_size)
        limits = {f"resolution_{limit}": resolution(curve, frequency, limit) for limit in (0.5, 0.143)}
        scores.append({"cluster": cluster, **row.to_dict(), **limits, "fsc": [round(float(v), 4) for v in curve]})
    return scores


def match_scores(
    known: pd.DataFrame, matches: Path, halves: tuple[Path, Path], options: Options
) -> list[dict[str, Any]]:
    """Whether matched classes of the even and odd half hold the same states."""
    table = read_csv(matches, ["cluster_even", "cluster_odd"]).dropna(subset=["cluster_even", "cluster_odd"])
    even, odd = (class_table(known, half)[list(COLUMNS)].T.to_dict() for half in halves)
    span = float(np.ptp(known["swing"].to_numpy()))
    scores = []
    for first, second in table[["cluster_even", "cluster_odd"]].astype(int).itertuples(index=False):
        score: dict[str, Any] = {"cluster_even": first, "cluster_odd": second}
        for column in COLUMNS:
            score |= {f"{column}_even": even[first][column], f"{column}_odd": odd[second][column]}
        score["same_states"] = bool(
            abs(score["swing_even"] - score["swing_odd"]) <= options.swing_tolerance * span
            and abs(score["occupied_even"] - score["occupied_odd"]) <= options.occupied_tolerance
        )
        scores.append(score)
    return scores


# --- in words --------------------------------------------------------------------------------------------------------


def summary(scores: dict[str, Any]) -> list[str]:
    """The scores in a few lines."""
    ours, best = scores["analysis"], scores["oracle"]
    lines = []
    if ours["swing_r2"] is not None:
        lines.append(
            f"truth: swing R² {ours['swing_r2']:.3f} (error {ours['swing_error']:.1f} degrees); Bayes-optimal "
            f"{best['swing_r2']:.3f} ({best['swing_error']:.1f} degrees)"
        )
    if ours["occupancy_linear_probe"] is not None:
        lines.append(
            f"truth: occupancy {ours['occupancy_clusters']:.3f} from clusters, {ours['occupancy_linear_probe']:.3f} by "
            f"a linear probe (balanced accuracy); Bayes-optimal {best['occupancy_linear_probe']:.3f}"
        )
    for one in scores["clusters"]:
        lines.append(
            f"truth: cluster {one['cluster']}: {one['particles']:.0f} particles, swing {one['swing']:+.1f} +- "
            f"{one['swing_deviation']:.1f} degrees, {100 * one['occupied']:.0f} % occupied; its map agrees with the "
            f"true one to {one['resolution_0.5']:.1f} Å (FSC 0.5)"
        )
    matches = scores.get("matches", [])
    if matches:
        same = sum(match["same_states"] for match in matches)
        lines.append(f"truth: {same} of {len(matches)} matched even/odd classes hold the same states")
    return lines
