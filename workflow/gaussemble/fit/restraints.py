"""Geometry that the neutral fit keeps: distances and angles between Gaussians that stand for consecutive residues.

The reference is the input model's own geometry, as the seeds have it: C-alpha (P) or bead distances and pseudo bond
angles (Chen, Toader & Lederman 2023). An angle's deviation counts by the arc that it makes at the mean distance, so
that all terms are in Å² and one weight serves both.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_npz


@dataclass(frozen=True)
class Restraints:
    """Which Gaussians are consecutive, and their geometry in the input model."""

    bonds: Int[Tensor, "bond 2"]
    angles: Int[Tensor, "angle 3"]  # the middle one second
    distance: Float[Tensor, " bond"]  # Å
    angle: Float[Tensor, " angle"]  # radians

    def to(self, device: torch.device | str) -> "Restraints":
        """On a device."""
        return Restraints(*(part.to(device) for part in (self.bonds, self.angles, self.distance, self.angle)))

    def __len__(self) -> int:
        return len(self.bonds) + len(self.angles)


def read_restraints(path: Path, center: Float[Tensor, "gaussian 3"]) -> Restraints:
    """The arrays `bonds` and `angles` of seeds.npz (none where absent) with the geometry of these centres (Å).

    Raises:
        InputError: arrays of another shape, or rows that no Gaussian has.
    """
    data = read_npz(path, "seeds")
    bonds, angles = (_rows(path, data, name, columns, len(center)) for name, columns in (("bonds", 2), ("angles", 3)))
    return Restraints(bonds, angles, distances(center, bonds), bond_angles(center, angles))


def _rows(path: Path, data: dict[str, np.ndarray], name: str, columns: int, count: int) -> Int[Tensor, "row column"]:
    rows = data.get(name, np.zeros((0, columns), np.int64))
    if rows.ndim != 2 or rows.shape[1] != columns or rows.dtype.kind not in "iu":
        raise InputError(f"{path}: array {name} is {rows.dtype} {rows.shape}; expected integers (n, {columns})")
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise InputError(f"{path}: array {name} names Gaussian {rows.max()}, but there are {count}; make it again")
    return torch.from_numpy(rows.astype(np.int64))


def unrestrained() -> Restraints:
    """Nothing to keep."""
    return Restraints(torch.zeros(0, 2).long(), torch.zeros(0, 3).long(), torch.zeros(0), torch.zeros(0))


def among(restraints: Restraints, rows: Int[Tensor, " chosen"], count: int) -> Restraints:
    """The restraints between chosen Gaussians of `count`, counted among these."""
    number = torch.full((count,), -1)
    number[rows] = torch.arange(len(rows))
    bonds, angles = number[restraints.bonds], number[restraints.angles]
    kept_bonds, kept_angles = (bonds >= 0).all(-1), (angles >= 0).all(-1)
    return Restraints(
        bonds[kept_bonds], angles[kept_angles], restraints.distance[kept_bonds], restraints.angle[kept_angles]
    )


def distances(center: Float[Tensor, "*batch gaussian 3"], bonds: Int[Tensor, "bond 2"]) -> Float[Tensor, "*batch bond"]:
    """Å between consecutive Gaussians; whole rows are selected, whose gradient is several times as quick."""
    first, second = (center.index_select(-2, bonds[:, place]) for place in (0, 1))
    return torch.linalg.vector_norm(first - second, dim=-1)


def bond_angles(
    center: Float[Tensor, "*batch gaussian 3"], angles: Int[Tensor, "angle 3"]
) -> Float[Tensor, "*batch angle"]:
    """Radians at the middle one of three; by the arc tangent, whose gradient is finite at straight angles too."""
    before, after = (center[..., angles[:, place], :] - center[..., angles[:, 1], :] for place in (0, 2))
    sine = torch.linalg.cross(before, after).square().sum(-1).clamp(min=1e-12).sqrt()
    return torch.atan2(sine, (before * after).sum(-1))


def penalty(center: Float[Tensor, "gaussian 3"], restraints: Restraints) -> Float[Tensor, ""]:
    """Mean-square deviations of distances and of angles' arcs from the input model's, Å²."""
    total = center.new_zeros(())
    if len(restraints.bonds):
        total = total + (distances(center, restraints.bonds) - restraints.distance).square().mean()
    if len(restraints.angles):
        arc = (bond_angles(center, restraints.angles) - restraints.angle) * restraints.distance.mean()
        total = total + arc.square().mean()
    return total


def geometry(
    center: Float[Tensor, "gaussian 3"], start: Float[Tensor, "gaussian 3"], restraints: Restraints
) -> dict[str, float | int]:
    """What geometry.json holds: root-mean-square deviations from the input model after the fit (0 before it)."""
    spread = distances(center, restraints.bonds)
    turned = bond_angles(center, restraints.angles) - restraints.angle
    return {
        "bonds": len(restraints.bonds),
        "angles": len(restraints.angles),
        "position_rmsd": _root_mean_square(torch.linalg.vector_norm(center - start, dim=-1)),
        "distance_before": _mean(restraints.distance),
        "distance_after": _mean(spread),
        "distance_rmsd": _root_mean_square(spread - restraints.distance),
        "angle_rmsd_degrees": float(np.degrees(_root_mean_square(turned))),
    }


def _root_mean_square(values: Float[Tensor, " value"]) -> float:
    return float(values.double().square().mean().sqrt()) if len(values) else 0.0


def _mean(values: Float[Tensor, " value"]) -> float:
    return float(values.double().mean()) if len(values) else 0.0
