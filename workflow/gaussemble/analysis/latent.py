"""The latent space: principal components, a picture in two dimensions, clusters, trajectories.

Each axis of z is divided by its median posterior standard deviation first, so that distances count what can be told
apart, as in noise-adjusted components (Lee et al., IEEE TGRS 28, 295 (1990)); an axis that nothing uses hardly counts
then. On the demo six clusters tell the presence of the optional domain for 99.9 % of the particles with it, for 81 %
without.

Whether anything varies beyond chance is said by particles that were kept from training (`chance`), how many clusters
the latents ask for by `populations`; whether another half of the data finds the same, by `agreement`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field
from sklearn.decomposition import PCA

from gaussemble.analysis.assignment import ClusterFiles, ClusterOptions, advise, assign, chosen_number, refuse_missing
from gaussemble.analysis.chance import Likelihoods, gain, likelihoods, plausible, variation
from gaussemble.analysis.picture import umap_picture
from gaussemble.analysis.populations import number_table
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, write_csv, write_json
from gaussemble.io.posteriors import read_posteriors
from gaussemble.progress import say

MOST = 10  # clusters that are tried for their number


class Options(ClusterOptions):
    """Options of the stage `latent`."""

    components: int | None = Field(
        default=None, ge=1, description="Number of principal components that get a trajectory; none: two, if there are."
    )
    points: int = Field(default=5, ge=2, description="Points of a trajectory.")
    lower: float = Field(default=5, ge=0, le=100, description="Percentile of the particles where a trajectory starts.")
    upper: float = Field(default=95, ge=0, le=100, description="Percentile of the particles where a trajectory ends.")
    scale: Literal["uncertainty", "none"] = Field(
        default="uncertainty",
        description="Latent axes are divided by their median posterior standard deviation first, or left as they are.",
    )
    umap: bool = Field(default=True, description="Make the UMAP picture.")
    neighbors: int = Field(default=15, ge=2, description="Neighbours of a particle in the UMAP picture.")


@dataclass(frozen=True)
class PrincipalAxes:
    """Where the particles spread: z = unit * (mean + pc @ direction)."""

    unit: Float[np.ndarray, " latent"]  # the length that counts as 1 on each axis of z
    mean: Float[np.ndarray, " latent"]  # of z / unit
    direction: Float[np.ndarray, "component latent"]  # orthonormal rows, the widest spread first
    explained: Float[np.ndarray, " component"]  # share of the variance of z / unit

    def coordinates(self, z: Float[np.ndarray, "particle latent"]) -> Float[np.ndarray, "particle component"]:
        """Principal coordinates of latents."""
        return (z / self.unit - self.mean) @ self.direction.T

    def latents(self, pc: Float[np.ndarray, "point component"]) -> Float[np.ndarray, "point latent"]:
        """Latents of principal coordinates; the inverse of `coordinates`."""
        return self.unit * (self.mean + pc @ self.direction)


def principal_axes(z: Float[np.ndarray, "particle latent"], unit: Float[np.ndarray, " latent"]) -> PrincipalAxes:
    """Principal components of z / unit; each direction's largest entry is positive, which fixes the signs."""
    pca = PCA().fit(z / unit)
    direction = np.asarray(pca.components_)
    largest = np.take_along_axis(direction, np.abs(direction).argmax(axis=1)[:, None], axis=1)
    explained = np.asarray(pca.explained_variance_ratio_)
    return PrincipalAxes(unit, np.asarray(pca.mean_), direction * np.sign(largest), explained)


def trajectory(
    axes: PrincipalAxes, pc: Float[np.ndarray, "particle component"], component: int, at: Float[np.ndarray, " point"]
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, "point latent"]]:
    """Points along one component (0-based) at percentiles of the particles, the other coordinates 0 (their mean).

    Equal steps of percentiles, not of length: each point has as many particles on its way from the last.
    Returns the points' coordinate and their latents.
    """
    points = np.zeros((len(at), pc.shape[1]))
    points[:, component] = np.percentile(pc[:, component], at)
    return points[:, component], axes.latents(points)


def latent_columns(table: pd.DataFrame, prefix: str = "z") -> list[str]:
    """z1, z2, ... as far as the table has them without a gap."""
    names = []
    while f"{prefix}{len(names) + 1}" in table:
        names.append(f"{prefix}{len(names) + 1}")
    return names


def _checked(path: Path, options: Options) -> tuple[pd.DataFrame, list[str]]:
    """The table of latents and its z columns; raises InputError where they cannot be analysed as the options say."""
    table = read_csv(path, ["particle", "z1", "sd1"])
    names = latent_columns(table)
    finite = np.isfinite(table[names].to_numpy()).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise InputError(
            f"{path}: row {row + 1} (particle {table['particle'].iloc[row]}) has a latent that is not a number, one of "
            f"{(~finite).sum()}; the training went astray, look at history.csv beside it"
        )
    if options.components is not None and options.components > len(names):
        raise InputError(f"option components is {options.components}, but {path} has {len(names)} latent dimension(s)")
    if options.lower >= options.upper:
        raise InputError(f"option lower is {options.lower:g} and must be below upper, which is {options.upper:g}")
    clusters = options.clusters or 1
    least = max(clusters, len(names) + 1, 3)
    if len(table) < least:
        raise InputError(f"{path}: {len(table)} particles; {clusters} clusters need {least} or more")
    if np.ptp(table[names].to_numpy(), axis=0).max() == 0:
        raise InputError(f"{path}: all particles have the same latent: the training found no heterogeneity at all")
    return table, names


def axis_units(table: pd.DataFrame, path: Path, scale: str) -> Float[np.ndarray, " latent"]:
    """What counts as 1 on each axis of z: its median posterior standard deviation, or 1."""
    names = latent_columns(table)
    if scale == "none":
        return np.ones(len(names))
    deviations = [f"sd{axis + 1}" for axis in range(len(names))]
    missing = [name for name in deviations if name not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; set the option scale to none or make it again")
    unit = table[deviations].median().to_numpy(dtype=np.float64)
    if not (np.isfinite(unit) & (unit > 0)).all():
        raise InputError(f"{path}: the median of a column sd is not a positive number; set the option scale to none")
    return unit


def _write_trajectories(
    folder: Path, axes: PrincipalAxes, pc: Float[np.ndarray, "particle component"], options: Options
) -> None:
    at = np.linspace(options.lower, options.upper, options.points)
    for stale in folder.glob("pc*.csv"):  # of an earlier run with more components
        stale.unlink()
    for component in range(options.components or min(2, pc.shape[1])):
        coordinate, z = trajectory(axes, pc, component, at)
        columns = {"point": np.arange(1, len(at) + 1), "percentile": at, f"pc{component + 1}": coordinate}
        columns |= {f"z{axis + 1}": z[:, axis] for axis in range(z.shape[1])}
        write_csv(folder / f"pc{component + 1}.csv", pd.DataFrame(columns))


def read_likelihoods(path: Path, table: pd.DataFrame) -> Likelihoods:
    """What the images say of the latents of a table; raises InputError where the file is of other particles."""
    known = read_posteriors(path)
    if not np.array_equal(known.particle, table["particle"]):
        raise InputError(f"{path}: not the particles of latent.csv beside it; run the stage heterogeneity again")
    seen = likelihoods(known.latent, known.covariance, known.prior_mean, known.prior_covariance)
    return plausible(seen, known.prior_mean, known.prior_covariance)


def _say_structure(seen: Likelihoods, table: pd.DataFrame, options: Options) -> dict[str, Any]:
    """Whether particles differ beyond chance: said, and returned with its numbers for structure.json."""
    held_out = table["held_out"].to_numpy(bool) if "held_out" in table else np.zeros(len(table), bool)
    particle = table["particle"].to_numpy()
    if "gain" in table and held_out.any():  # of poses: the evidence itself, no normal distributions
        found = gain(table["gain"].to_numpy()[held_out], particle[held_out])
    else:
        found = variation(seen, held_out, options.seed, particle)
    say(f"latent: {found.sentence}")
    return {
        "varies": found.beyond_chance,
        "sentence": found.sentence,
        "variation": asdict(found) | {"probability": found.probability},
        "kept_from_training": bool(held_out.any()),
    }


def latent(
    *,
    latent: Path,
    out: Path,
    options: Options,
    posteriors: Path | None = None,
    labels: Path | None = None,
    report: Path | None = None,
    particles: Path | None = None,
    consensus: Path | None = None,
    model: Path | None = None,
) -> None:
    """Analyse the latents of one split.

    Writes embedding.csv, clusters.csv and trajectories/pcN.csv into `out`; with posteriors also structure.json and
    numbers.csv.

    Args:
        latent: latent.csv of the stage `heterogeneity`.
        out: folder to write.
        options: see `Options`.
        posteriors: posterior.npz of the same stage, for what chance gives and how many clusters there are.
        labels: a table (CSV) of particle and cluster: your own clusters in the place of any method's.
        report: report.json of the stage `particles`, which tells how many particles there are to label.
        particles: folder of the split's image store, for decoded classes.
        consensus: folder of the split's consensus, for decoded classes.
        model: model.pt of the stage `heterogeneity`, for decoded classes.
    """
    files = ClusterFiles(latent, particles, consensus, model, labels, report)
    refuse_missing(files, options)
    table, names = _checked(latent, options)
    seen = read_likelihoods(posteriors, table) if posteriors is not None else None
    z = table[names].to_numpy(dtype=np.float64)
    axes = principal_axes(z, axis_units(table, latent, options.scale))
    pc = axes.coordinates(z)
    say("latent: " + ", ".join(f"pc{i + 1} {share:.0%}" for i, share in enumerate(axes.explained)) + " of the variance")

    structure = _say_structure(seen, table, options) if seen is not None else {"varies": True}
    numbers = number_table(seen, MOST, options.seed) if seen is not None else None
    count = chosen_number(numbers, structure["varies"], options)
    particle = table["particle"].to_numpy()
    clusters = assign(particle, z, pc, seen, count, files, options)
    if labels is None and options.scale == "uncertainty":
        advise(clusters, pc, options)

    others = [name for name in [*latent_columns(table, "sd"), "observability"] if name in table]
    components = [f"pc{i + 1}" for i in range(pc.shape[1])]
    embedding = pd.DataFrame(table[["particle", *names, *others]]).assign(**dict(zip(components, pc.T, strict=True)))
    if options.umap and pc.shape[1] > 1:  # one dimension is a picture already
        embedding[["umap1", "umap2"]] = umap_picture(pc, options.neighbors, options.seed)
    if numbers is not None:
        write_json(out / "structure.json", structure | {"method": "labels" if labels else options.method})
        write_csv(out / "numbers.csv", numbers)
    write_csv(out / "embedding.csv", embedding)
    write_csv(out / "clusters.csv", clusters.table(particle))
    _write_trajectories(out / "trajectories", axes, pc, options)
