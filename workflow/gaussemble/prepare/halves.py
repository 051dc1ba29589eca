"""Which rows show the same image, which half each belongs to, and the copies that symmetry expansion makes.

A particle's identity is the first row of its image. All copies of a particle are in the same half, wherever halves are
told apart: what shares an image shares its noise.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from gaussemble.errors import InputError
from gaussemble.io.images import ParticleImages
from gaussemble.io.relion import Metadata
from gaussemble.io.star import StarFile, numbers
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.physics.symmetry import expand, operators

Split = Literal["full", "even", "odd"]
Halves = Literal["rows", "random_subset"]
SAME_POSE = 3  # decimals of rotation matrices, and of Å, that are equal in rows of the same pose


def identities(star: Path, images: ParticleImages, metadata: Metadata) -> Int[np.ndarray, " row"]:
    """For each row the first row with the same image.

    Raises:
        InputError: an image stands twice with the same pose, so that its copies are none of symmetry expansion.
    """
    identity = images.first_rows()
    copies = np.flatnonzero(np.bincount(identity, minlength=len(identity))[identity] > 1)
    if not len(copies):
        return identity
    matrix = euler_to_matrix(torch.from_numpy(metadata.angles[copies])).flatten(1).numpy()
    pose = np.round(np.hstack([matrix, metadata.shift[copies]]), SAME_POSE) + 0.0  # no -0
    table = pd.DataFrame(np.column_stack([identity[copies], pose]))
    repeated = np.asarray(table.duplicated())
    if repeated.any():
        second = int(np.argmax(repeated))
        first = int(np.argmax((table == table.iloc[second]).all(axis=1)))
        row, other = int(copies[first]), int(copies[second])
        raise InputError(
            f"{star}: rows {row} and {other} (from 0) are the same image {images.name(row)} in the same pose, and so "
            f"are {int(repeated.sum())} rows in all; leave one row of each"
        )
    return identity


def said_of_copies(identity: Int[np.ndarray, " row"]) -> list[str]:
    """A sentence where rows share images."""
    rows = np.unique(identity, return_counts=True)[1]
    if rows.max() == 1:
        return []
    uneven = f"; they have {rows.min()} to {rows.max()} rows each, are there duplicates?"
    said = f"{len(identity)} rows of {len(rows)} images, in different poses: taken as symmetry-expanded"
    return [said + uneven * bool(rows.min() < rows.max())]


def rank(identity: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """0, 1, 2 ... for each identity in order of appearance."""
    return pd.factorize(identity)[0].astype(np.int64)


def half_of_rows(star: StarFile, identity: Int[np.ndarray, " row"], halves: Halves) -> Int[np.ndarray, " row"]:
    """0 (even) or 1 (odd) for each row of the file, by the rank of its image or by rlnRandomSubset.

    Raises:
        InputError: rlnRandomSubset is missing, not 1 or 2, or differs among rows of one image.
    """
    if halves == "rows":
        return rank(identity) % 2
    subset = numbers(star, "rlnRandomSubset")
    if subset is None:
        raise InputError(f"{star.path}: no column rlnRandomSubset; set particles.halves to rows")
    for wrong, expected in (
        (~np.isin(subset, (1, 2)), "expected 1 or 2"),
        (subset != subset[identity], "but another one in row {first} of the same image; set particles.halves to rows"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = expected.format(first=identity[row])
            raise InputError(f"{star.path}: row {row} (from 0): rlnRandomSubset is {subset[row]:g}, {expected}")
    return subset.astype(np.int64) - 1


def rows_of_split(
    star: Path, half: Int[np.ndarray, " row"], split: Split, halves: Halves
) -> Int[np.ndarray, " chosen"]:
    """The 0-based rows that belong to a split, ascending.

    Raises:
        InputError: no row does; for the full set, no row is in one of its half-maps though the file should say it.
    """
    names = ("even", "odd")
    wanted = (0, 1) if split == "full" else (names.index(split),)
    for one in wanted:
        if not (half == one).any() and (split != "full" or halves == "random_subset"):
            raise InputError(
                f"{star}: no particle is in the {names[one]} half ({len(half)} rows, halves by {halves})"
                + ("; set particles.halves to rows" if halves == "random_subset" else "")
            )
    return np.flatnonzero(np.isin(half, wanted))


def half_maps(
    half: Int[np.ndarray, " row"], identity: Int[np.ndarray, " row"], split: Split
) -> Int[np.ndarray, " row"]:
    """0 or 1: the half-map of each row of a split. Those of the full set are even and odd; within them, by turns."""
    return half if split == "full" else rank(identity) % 2


def expanded(
    angles: Float[np.ndarray, "row 3"], symmetry: str
) -> tuple[Int[np.ndarray, " copy"], Float[np.ndarray, "copy 3"]]:
    """Each copy's row and its angles in radians: the copies of a row stand together, the first one's pose is its own.

    Raises:
        InputError: not a point group.
    """
    count = len(operators(symmetry))
    if count == 1:
        return np.arange(len(angles)), angles
    return np.repeat(np.arange(len(angles)), count), expand(torch.from_numpy(angles), symmetry).numpy()
