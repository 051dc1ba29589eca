"""Which particle belongs to which cluster, by the method that the options ask for or as a user gives it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field

from gaussemble.analysis.chance import Likelihoods
from gaussemble.analysis.clustering import Clusters, find_clusters, most_probable, nearest_pair, read_labels
from gaussemble.analysis.decoded_classes import class_probabilities
from gaussemble.analysis.populations import shared_out
from gaussemble.errors import InputError
from gaussemble.fit.particles import particles_in_band
from gaussemble.io.files import read_json
from gaussemble.io.store import open_store
from gaussemble.model.heterogeneity import load_model
from gaussemble.options import StageOptions
from gaussemble.progress import say

APART = 3.0  # posterior deviations between centres; nearer ones share many particles out wrongly


class ClusterOptions(StageOptions):
    """How clusters are found."""

    method: Literal["kmeans", "gaussian_mixture", "hdbscan", "decoded"] = Field(
        default="kmeans",
        description="How clusters are found: of latents, by k-means, normal distributions (each particle through its "
        "own error) or density (hdbscan, which leaves particles out); or as maps that share the particles by "
        "likelihood (decoded), best where particles are noisy, at the cost of a pass over them and some minutes.",
    )
    clusters: int | None = Field(
        default=4,
        ge=1,
        description="Number of clusters; cluster 1 is the lowest on pc1. None: that of the lowest BIC in numbers.csv, "
        "and one where nothing varies. hdbscan finds its own number.",
    )
    smallest: int | None = Field(
        default=None, ge=5, description="Fewest particles of a cluster of hdbscan; none: a hundredth of all."
    )
    seed: int = Field(default=0, ge=0, description="Seed of clusters and UMAP.")


@dataclass(frozen=True)
class ClusterFiles:
    """What the ways to find clusters read."""

    latent: Path  # latent.csv
    particles: Path | None = None  # folder of the image store
    consensus: Path | None = None  # folder
    model: Path | None = None  # model.pt
    labels: Path | None = None  # a user's own clusters
    report: Path | None = None  # report.json of the stage particles


def refuse_missing(files: ClusterFiles, options: ClusterOptions) -> None:
    """Raise InputError where decoded classes are asked for without what they are compared with."""
    missing = [f"--{name}" for name in ("particles", "consensus", "model") if getattr(files, name) is None]
    if options.method == "decoded" and files.labels is None and missing:
        raise InputError(
            f"option method is decoded, which compares particles with structures; give {' and '.join(missing)} too"
        )


def chosen_number(numbers: pd.DataFrame | None, varies: bool, options: ClusterOptions) -> int:
    """The number of clusters that is asked for, or that the latents ask for.

    Args:
        numbers: see `populations.number_table`; None where nothing is known but the latents.
        varies: whether there is more than chance gives.
        options: see `ClusterOptions`.
    """
    if options.clusters is not None:
        return options.clusters
    if numbers is None:
        raise InputError("option clusters is none, and no posteriors were given that say how many; give one of them")
    best = int(numbers["clusters"].to_numpy()[numbers["bic"].to_numpy().argmin()]) if varies else 1
    say(f"latent: {best} cluster(s), " + ("by the lowest BIC" if varies else "since nothing varies beyond chance"))
    return best


def assign(
    particle: Int[np.ndarray, " particle"],
    z: Float[np.ndarray, "particle latent"],
    pc: Float[np.ndarray, "particle component"],
    seen: Likelihoods | None,
    count: int,
    files: ClusterFiles,
    options: ClusterOptions,
) -> Clusters:
    """The cluster of each particle; their sizes are said.

    Args:
        particle: rows of the input file.
        z: latents.
        pc: their principal coordinates.
        seen: what the images say of them, if known.
        count: clusters to find, where the method does not find their number.
        files: see `ClusterFiles`.
        options: see `ClusterOptions`.
    """
    method = options.method if files.labels is None else "labels"
    if files.labels is not None:
        in_file = read_json(files.report)["particles_in_file"] if files.report is not None else None
        found = read_labels(files.labels, particle, in_file)
    elif method == "decoded" and count > 1:
        found = _decoded_clusters(particle, z, pc, count, files)
    elif method == "gaussian_mixture" and seen is not None:
        found = most_probable(shared_out(seen, count, options.seed), pc[:, 0])
    else:
        known = method if method != "decoded" else "kmeans"
        found = find_clusters(pc, count, known, options.seed, options.smallest)
    if not found.number.any():
        say("warning: hdbscan finds no cluster, and all particles are taken as one; a lower smallest may find some")
        found = Clusters(np.ones(len(pc), dtype=np.int64))
    sizes, left = found.sizes, int((found.number == 0).sum())
    if method == "kmeans" and len(sizes) < count:
        raise InputError(f"{files.latent}: only {len(sizes)} distinct clusters; lower the option clusters")
    if method in ("gaussian_mixture", "decoded") and len(sizes) < count:
        say(f"warning: of {count} clusters only {len(sizes)} are the most probable one of any particle")
    say(f"latent: clusters of {', '.join(map(str, sizes))} particles" + (f", {left} in none" if left else ""))
    return found


def advise(clusters: Clusters, pc: Float[np.ndarray, "particle component"], options: ClusterOptions) -> None:
    """Say so where k-means divides particles that are too noisy for it; `pc` in units of posterior deviations."""
    if options.method != "kmeans" or len(clusters.sizes) < 2:
        return
    first, second, apart = nearest_pair(pc, clusters.number)
    if apart < APART:
        say(
            f"latent: clusters {first} and {second} are only {apart:.1f} posterior deviations apart, so that many "
            "particles may be in the wrong one; method: decoded compares them with the images"
        )


def _decoded_clusters(
    particle: Int[np.ndarray, " particle"],
    z: Float[np.ndarray, "particle latent"],
    pc: Float[np.ndarray, "particle component"],
    count: int,
    files: ClusterFiles,
) -> Clusters:
    """Classes of maps that start at the model's landmarks."""
    assert files.particles is not None and files.consensus is not None and files.model is not None
    store, model = open_store(files.particles), load_model(files.model)
    if not np.array_equal(store.particles.particle.numpy(), particle):
        raise InputError(f"{files.particles}: not the particles of {files.latent}, in their order; give its split's")
    if model.design.compared is None or model.latent_dim != z.shape[1]:
        raise InputError(f"{files.model}: not the model of {files.latent}, or an earlier version's; train it again")
    if model.poses is not None and count > model.design.landmarks:  # as many as were found
        say(f"latent: WARNING: {count} classes were asked for, but there are {model.design.landmarks} poses; so many")
        count = model.design.landmarks
    if count > model.design.landmarks:
        raise InputError(f"option clusters is {count}, but {files.model} has {model.design.landmarks} landmarks")
    band = particles_in_band(store, files.consensus, model.neutral, model.design.compared, model.moving)
    return most_probable(class_probabilities(model, band, count), pc[:, 0])
