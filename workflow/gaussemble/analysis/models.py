"""The atomic model, morphed along each trajectory through latent space.

Atoms follow the Gaussians near them: `x_i(z) = x_i + sum_j T_ij (c_j(z) - c_j(0))` with the rows of T summing to one
(Chen, Toader & Lederman 2023). Displacements are relative to the decoded zero vector, so that the point of the
trajectory nearest zero is the model as it was given. Stereochemistry is not restrained: a morph shows where parts of
the molecule go, and is a start for real-space refinement against the maps of the stage `volumes`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from pydantic import Field
from scipy.spatial import KDTree
from scipy.special import softmax
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.atoms import Atoms, gather, read_atoms, write_models
from gaussemble.io.files import read_csv, write_csv
from gaussemble.io.mixtures import read_mixture
from gaussemble.io.mrc import read_map
from gaussemble.model.heterogeneity import DeformableMixture, load_model
from gaussemble.options import StageOptions
from gaussemble.progress import say
from gaussemble.quantities import Mixture


class Options(StageOptions):
    """Options of the stage `models`."""

    neighbors: int = Field(default=32, ge=1, description="Number of nearest Gaussians that an atom follows.")
    reach: float | None = Field(
        default=None,
        gt=0,
        description="Distance in Å over which Gaussians lose their hold on an atom, as a standard deviation (null: the "
        "median distance between neighbouring Gaussians).",
    )


@dataclass(frozen=True)
class Transition:
    """Rows of T: the Gaussians that each atom follows, and how much."""

    gaussian: Int[np.ndarray, "atom neighbor"]
    nearest: Float64[np.ndarray, " atom"]  # Å to the nearest Gaussian
    reach: float  # Å, standard deviation of the weights
    weight: Float64[np.ndarray, "atom neighbor"]  # rows sum to 1

    def __call__(self, displacement: Float64[np.ndarray, "gaussian 3"]) -> Float64[np.ndarray, "atom 3"]:
        """Displacement of the atoms, Å, from that of the Gaussians."""
        return np.einsum("an,and->ad", self.weight, displacement[self.gaussian])


def models(*, model: Path, neutral: Path, analysis: Path, map: Path, out: Path, options: Options) -> None:
    """Write pcN.cif (a model per point) for each trajectory pcN.csv of the analysis, and displacement.csv."""
    tables = read_trajectories(analysis / "latent" / "trajectories")
    atoms = read_atoms(model)
    mixture = read_mixture(neutral)
    decoder = load_model(analysis / "heterogeneity" / "model.pt")
    refuse_other_mixture(neutral, mixture, decoder)
    center = mixture.center.double().numpy() + read_map(map).center
    transition = transition_to_atoms(atoms.position, center, options.neighbors, options.reach, matter(mixture))
    say_far(transition, model)
    for stale in out.glob("pc*.cif"):  # of an earlier run with more trajectories
        stale.unlink()
    displacements = []
    for name, table in tables.items():
        moved = [transition(field) for field in gaussian_displacements(decoder, latents(name, table, decoder))]
        write_models(out / f"{name}.cif", atoms, [atoms.position + change for change in moved])
        displacements.append(displacement_table(name, atoms, moved))
        say(f"models: {name}: residues move by up to {displacements[-1]['displacement'].max():.1f} Å between the ends")
    write_csv(out / "displacement.csv", pd.concat(displacements, ignore_index=True))


def read_trajectories(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables pc1, pc2, ... in order of their number; raises InputError where there is none."""
    paths = sorted(folder.glob("pc*.csv"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise InputError(f"{folder}: no trajectories pc1.csv, pc2.csv, ...; run the stage latent first")
    return {path.stem: read_csv(path, ["point", "z1"]).sort_values("point") for path in paths}


def latents(name: str, table: pd.DataFrame, decoder: DeformableMixture) -> Float[Tensor, "point latent"]:
    """Latent vectors of a trajectory's points; raises InputError where their length is not the model's."""
    columns = [f"z{axis}" for axis in range(1, decoder.latent_dim + 1)]
    if not set(columns) <= set(table) or f"z{decoder.latent_dim + 1}" in table:
        raise InputError(
            f"trajectory {name}: columns {', '.join(map(str, table))}; the model has {decoder.latent_dim} latent "
            "dimensions: run the stage latent again"
        )
    return torch.from_numpy(table[columns].to_numpy(dtype=np.float32))


def refuse_other_mixture(path: Path, mixture: Mixture, decoder: DeformableMixture) -> None:
    """Raise InputError where the decoder moves other Gaussians."""
    decoded = len(decoder.decode(torch.zeros(1, decoder.latent_dim)))
    if decoded != len(mixture):
        raise InputError(
            f"{path}: {len(mixture)} Gaussians, but the heterogeneity model has {decoded}; give the neutral mixture "
            "that it was trained from"
        )
    if not torch.allclose(decoder.neutral.center, mixture.center, atol=0.01):
        raise InputError(
            f"{path}: not the neutral mixture that the heterogeneity model was trained from; give that one"
        )


def matter(mixture: Mixture) -> Int[np.ndarray, " row"]:
    """Gaussians that atoms may follow: those of negative amplitude are no molecule (all, where there are no others)."""
    positive = np.flatnonzero(mixture.amplitude.numpy() > 0)
    return positive if len(positive) else np.arange(len(mixture))


@torch.no_grad()
def gaussian_displacements(
    decoder: DeformableMixture, latent: Float[Tensor, "point latent"]
) -> Float64[np.ndarray, "point gaussian 3"]:
    """Å, of each Gaussian's centre at each point, from where the zero vector puts it."""
    rest = decoder.decode(torch.zeros(1, decoder.latent_dim)).center
    return (decoder.decode(latent).center - rest).double().numpy()


def transition_to_atoms(
    atom: Float64[np.ndarray, "atom 3"],
    gaussian: Float64[np.ndarray, "gaussian 3"],
    neighbors: int = 32,
    reach: float | None = None,
    rows: Int[np.ndarray, " row"] | None = None,
) -> Transition:
    """T_ij proportional to exp(-d_ij² / (2 reach²)) over the nearest Gaussians of each atom, rows normalised.

    Normalised before exponentials can vanish: however far an atom is, its nearest Gaussian keeps weight, and no row
    is 0/0. `rows`: the Gaussians that atoms may follow (None: all).
    """
    rows = np.arange(len(gaussian)) if rows is None else rows
    tree = KDTree(gaussian[rows])
    if reach is None:
        reach = _spacing(tree)
    distance, nearest = tree.query(atom, k=list(range(1, min(neighbors, len(rows)) + 1)))  # type: ignore[arg-type]
    return Transition(rows[np.asarray(nearest)], distance[:, 0], reach, softmax(-0.5 * (distance / reach) ** 2, axis=1))


def say_far(transition: Transition, path: Path) -> None:
    """Say how many atoms only follow what is far away; raises InputError where most do."""
    far = int((transition.nearest > 3 * transition.reach).sum())
    if far > len(transition.nearest) / 2:
        raise InputError(
            f"{path}: {far} of {len(transition.nearest)} atoms are over {3 * transition.reach:.1f} Å from any "
            "Gaussian; fit the model into the map that the mixture was made from"
        )
    if far:
        say(
            f"models: WARNING: {far} of {len(transition.nearest)} atoms are over {3 * transition.reach:.1f} Å from "
            "any Gaussian and move with the nearest; look whether the model lies on the neutral mixture"
        )


def displacement_table(name: str, atoms: Atoms, moved: list[Float64[np.ndarray, "atom 3"]]) -> pd.DataFrame:
    """One row per residue: Å that its centroid moves between the first and the last point, and to each from neutral."""
    count = len(atoms.chain)
    shift = [gather(change, atoms.electrons, atoms.residue, count).position for change in moved]
    columns = {
        "trajectory": name,
        "chain": atoms.chain,
        "residue": atoms.number,
        "name": atoms.residue_name,
        "displacement": np.linalg.norm(shift[-1] - shift[0], axis=1),
    }
    points = {f"d{point}": np.linalg.norm(change, axis=1) for point, change in enumerate(shift, start=1)}
    return pd.DataFrame({**columns, **points})


def _spacing(tree: KDTree) -> float:
    """Median distance from a Gaussian to its nearest other, Å (1 where that is nothing)."""
    if tree.n < 2:
        return 1.0
    distance, _ = tree.query(tree.data, k=2)
    return float(np.median(distance[:, 1])) or 1.0
