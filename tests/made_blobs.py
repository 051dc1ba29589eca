"""Densities that are known by formula: Gaussians at a few points or along a trace, in a box with an origin."""

import math
from pathlib import Path

import numpy as np
import torch

from gaussemble.io.mrc import write_map
from gaussemble.quantities import Map
from made_models import write_points

BOX, PIXEL, ORIGIN = 40, 3.0, (100.0, -20.0, 7.0)
# a chair: distances and directions tell x, y, z and the hand apart (Å from the box's origin, voxel 20)
BLOBS = np.array([[0, 0, 0], [24, 0, 0], [0, 15, 0], [0, 0, -33], [-12, -21, 9]], dtype=float)
MASS = np.array([5.0, 4, 3, 2, 1])
WIDTH = 4.5  # Å


def blobs_map(center=BLOBS, mass=MASS, width: float = WIDTH) -> Map:
    """Gaussians of given mass (sum over voxels), summed in real space from their formula."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    voxels = np.zeros((BOX, BOX, BOX))
    for (cx, cy, cz), a in zip(center, mass, strict=True):
        squared = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        voxels += a * PIXEL**3 * np.exp(-squared / (2 * width**2)) / (2 * math.pi * width**2) ** 1.5
    return Map(torch.from_numpy(voxels).float(), PIXEL, ORIGIN)


def write_inputs(folder: Path, density: Map, mask: torch.Tensor | None = None) -> dict[str, Path]:
    """The files of the stage `seeds`; a mask of ones if none is given."""
    write_map(folder / "map.mrc", density)
    write_map(folder / "mask.mrc", density.with_voxels(torch.ones_like(density.voxels) if mask is None else mask))
    return {"map": folder / "map.mrc", "mask": folder / "mask.mrc", "out": folder / "seeds"}


def chain_of_points(count: int = 60) -> np.ndarray:
    """A trace through the box that no shift maps onto itself, 3.8 Å from point to point."""
    turn = np.linspace(0, 3.5 * np.pi, count)
    return np.stack([18 * np.cos(turn), 12 * np.sin(turn) + 4, 1.1 * np.arange(count) - 30.0], 1)


def write_model(path: Path, position: np.ndarray) -> Path:
    """A carbon per position, each its own residue; positions from the box's origin, written in the map frame."""
    return write_points(path, position + np.asarray(ORIGIN) + BOX // 2 * PIXEL)
