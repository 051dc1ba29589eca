"""A reconstruction with half-maps and FSC for each cluster and trajectory point, and the decoded map beside it.

A cluster's map is made from its particles. A trajectory point's is made from the particles nearest to it in the
latent space (`scale` as in the stage `latent`); the same particle may serve several points. The decoded map is what
the trained model draws for one latent vector: it has the grey scale of the reconstruction but is no evidence by
itself. Whether states are real, `agreement` says.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from pydantic import Field
from torch import Tensor

from gaussemble.analysis.latent import axis_units, latent_columns
from gaussemble.errors import InputError
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mrc import read_map, write_map
from gaussemble.io.refinement import NAMES, Refinement, read_written
from gaussemble.io.store import ImageStore, open_store
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.options import StageOptions
from gaussemble.physics.backprojection import Sums, divide, sums_bytes, wiener_snr
from gaussemble.physics.band_limited import band_limited_map
from gaussemble.prepare.consensus import halves, sum_slices
from gaussemble.prepare.fsc import curve_resolution, half_map_table
from gaussemble.progress import say
from gaussemble.quantities import Map, Mixture

FEW = 10  # particles; below, a map says next to nothing
FILES = ("map.mrc", "half1.mrc", "half2.mrc", "decoded.mrc", "fsc.csv", *NAMES)


class Options(StageOptions):
    """Options of the stage `volumes`."""

    padding: Literal[1, 2] = Field(default=2, description="Zero padding of reconstructions; 1 is quicker, coarser.")
    nearest: int = Field(default=2000, ge=2, description="Particles nearest to a trajectory point that make its map.")
    share: float = Field(
        default=1 / 3, gt=0, le=1, description="At most this share of all particles makes a trajectory point's map."
    )
    scale: Literal["uncertainty", "none"] = Field(
        default="none",
        description="Latent axes count in units of their median posterior standard deviation, or as they are.",
    )
    memory: float = Field(
        default=4.0, gt=0, description="GB for the volumes of one pass; where it is not enough there are more passes."
    )


@dataclass(frozen=True)
class State:
    """One map to make."""

    name: str  # of its folder
    rows: Int[Tensor, " image"]  # its particles' rows in the store, ascending
    latent: Float[Tensor, " latent"]  # what its decoded map is decoded from


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


def cluster_states(
    folder: Path, latents: pd.DataFrame, z: Float[np.ndarray, "particle latent"], store: ImageStore
) -> Iterator[State]:
    """The clusters; each is decoded at its particle nearest to the cluster's mean, a latent that really occurs."""
    path = folder / "latent" / "clusters.csv"
    table = read_csv(path, ["particle", "cluster"])
    position = row_keys(latents["particle"]).get_indexer(row_keys(table["particle"]))
    if (position < 0).any():
        raise InputError(f"{path}: {(position < 0).sum()} particles are not in latent.csv; run the stage latent again")
    rows, raw = store_rows(path, table, store), latents[latent_columns(latents)].to_numpy(np.float64)
    for cluster in sorted(table["cluster"].unique()):
        members = (table["cluster"] == cluster).to_numpy()
        own = position[members]
        middle = own[nearest_rows(z[own], z[own].mean(axis=0), 1)[0]]
        yield State(f"cluster_{cluster}", torch.from_numpy(np.sort(rows[members])), torch.from_numpy(raw[middle]))


def trajectory_states(
    folder: Path,
    rows: Int[np.ndarray, " particle"],
    z: Float[np.ndarray, "particle latent"],
    unit: np.ndarray,
    count: int,
) -> Iterator[State]:
    """The points of every trajectory; `z` in units of `unit`, `rows` the particles' rows in the store."""
    for path in sorted((folder / "latent" / "trajectories").glob("pc*.csv")):
        names = [f"z{axis + 1}" for axis in range(z.shape[1])]
        table = read_csv(path, ["point", *names])
        for point, latent in zip(table["point"], table[names].to_numpy(np.float64), strict=True):
            chosen = np.sort(rows[nearest_rows(z, latent / unit, count)])
            yield State(f"trajectory_{path.stem}_{point}", torch.from_numpy(chosen), torch.from_numpy(latent))


def read_states(folder: Path, store: ImageStore, options: Options) -> list[State]:
    """All maps to make of an analysis; says so where a map has too few particles."""
    path = folder / "heterogeneity" / "latent.csv"
    latents = read_csv(path, ["particle", "z1"])
    unit = axis_units(latents, path, options.scale)
    z = latents[latent_columns(latents)].to_numpy(np.float64) / unit
    rows = store_rows(path, latents, store)
    count = min(options.nearest, max(2, int(options.share * len(rows))))
    states = [*cluster_states(folder, latents, z, store), *trajectory_states(folder, rows, z, unit, count)]
    for state in states:
        if len(state.rows) < FEW:
            say(f"warning: {state.name} has only {len(state.rows)} particle(s): its map says next to nothing")
    return states


def passes(states: list[State], box: int, options: Options) -> Iterator[list[State]]:
    """The states in groups whose half-maps fit in memory together."""
    size = max(1, int(options.memory * 1e9 / (2 * sums_bytes(box, options.padding))))
    for start in range(0, len(states), size):
        yield states[start : start + size]


def sum_states(store: ImageStore, states: list[State], padding: int) -> Sums:
    """Both halves of every state in one pass over the images: volumes 2 s and 2 s + 1 of state s."""
    pairs = [halves(store, state.rows) + torch.tensor([0, 2 * index]) for index, state in enumerate(states)]
    return sum_slices(store, torch.cat(pairs), 2 * len(states), padding)


def reconstructed(
    sums: Sums, state: int, mask: Float[Tensor, "z y x"], pixel_size: float
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """half1, half2 and the Wiener-weighted map of one state, and its fsc.csv."""
    half1, half2 = divide(sums, 2 * state), divide(sums, 2 * state + 1)
    table = half_map_table(half1, half2, mask, pixel_size)
    snr = wiener_snr(torch.tensor(table["fsc_corrected"].to_numpy()))
    both = divide(sums.merged([2 * state, 2 * state + 1]), snr=snr)
    return {"map": both, "half1": half1, "half2": half2}, table


def decoded(model: DeformableMixture, latent: Float[Tensor, " latent"], frame: Map) -> Float[Tensor, "z y x"]:
    """The map of the mixture that the model decodes from a latent vector, as its projections are: up to Nyquist."""
    with torch.no_grad():
        mixture = model.decode(latent[None].float())
    single = Mixture(mixture.center[0], mixture.amplitude[0], mixture.width[0])
    return band_limited_map(single, frame.box, frame.pixel_size)


def remove_stale(out: Path, states: list[State]) -> None:
    """Remove what an earlier run left of states that are no more; only files that this stage writes."""
    for folder in out.glob("*_*"):
        if re.fullmatch(r"cluster_\d+|trajectory_pc\d+_\d+", folder.name) and folder.name not in {
            s.name for s in states
        }:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def read_inputs(particles: Path, consensus: Path) -> tuple[ImageStore, Refinement, Map]:
    """The store, its particles' metadata and the consensus mask, with which the maps share their frame."""
    store, refinement = open_store(particles), read_written(particles)
    if len(refinement) != len(store):
        raise InputError(
            f"{refinement.star.path}: {len(refinement)} rows, but the image store beside it has {len(store)}; "
            "run particles again"
        )
    mask = read_map(consensus / "mask.mrc")
    if mask.box != store.box:
        raise InputError(
            f"{consensus / 'mask.mrc'}: box {mask.box}, but the particles of {particles} have box {store.box}; "
            "run consensus again"
        )
    return store, refinement, Map(mask.voxels, store.pixel_size, mask.origin)


def volumes(*, particles: Path, consensus: Path, analysis: Path, out: Path, options: Options) -> None:
    """Write a folder for each cluster and trajectory point: map, half1, half2, decoded .mrc, fsc.csv, particles.star.

    Where the particles came from cryoSPARC or cryoDRGN, particles.cs or indices.pkl has the same subset for these.

    Args:
        particles: folder of the split's image store, with particles.star.
        consensus: folder of the split's consensus; its mask is where FSC is measured.
        analysis: folder of the analysis with heterogeneity/ and latent/.
        out: folder of the results.
        options: of this stage.

    Raises:
        InputError: files that are missing or do not belong together.
    """
    store, refinement, mask = read_inputs(particles, consensus)
    model = load_model(analysis / "heterogeneity" / "model.pt")
    states = read_states(analysis, store, options)
    remove_stale(out, states)
    for group in passes(states, store.box, options):
        sums = sum_states(store, group, options.padding)
        for index, state in enumerate(group):
            maps, table = reconstructed(sums, index, mask.voxels, store.pixel_size)
            maps["decoded"] = decoded(model, state.latent, mask)
            for name, voxels in maps.items():
                write_map(out / state.name / f"{name}.mrc", mask.with_voxels(voxels))
            write_csv(out / state.name / "fsc.csv", table)
            refinement.rows(state.rows.numpy()).write(out / state.name)
            say(f"{state.name}: {len(state.rows)} particles, {curve_resolution(table):.1f} Å at FSC 0.143 in the mask")
