"""Sums of the slices of a store's images, read block by block, for one volume or for many at once."""

import torch
from jaxtyping import Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.store import ImageStore
from gaussemble.physics.backprojection import Sums, empty_sums, insert, weighted_slices
from gaussemble.physics.symmetry import operators
from gaussemble.progress import progress

BLOCK = 512  # images in memory at a time


def halves(store: ImageStore, rows: Int[Tensor, " image"]) -> Int[Tensor, "image 2"]:
    """(row, 0 or 1) of each row: the half-map that its particle belongs to."""
    return torch.stack([rows, store.half[rows]], dim=-1)


def sum_slices(store: ImageStore, pairs: Int[Tensor, "pair 2"], volumes: int, padding: int) -> Sums:
    """Insert the images of a store into several volumes in one pass; pair (r, v) adds row r to volume v."""
    sums = empty_sums(volumes, store.box, padding)
    rows = torch.unique(pairs[:, 0])
    starts = range(0, len(rows), BLOCK)
    for start in progress(starts, "reconstruction, blocks of images"):
        block = rows[start : start + BLOCK]
        here = pairs[torch.isin(pairs[:, 0], block)]
        local = torch.stack([torch.searchsorted(block, here[:, 0].contiguous()), here[:, 1]], dim=-1)
        particles = store.particles[block]
        data, weights = weighted_slices(store.read(block), particles, store.pixel_size)
        insert(sums, data, weights, particles.rotation, local)
    return sums


def check_symmetry(store: ImageStore, symmetry: str) -> None:
    """Refuse a symmetry that the particles already have as copies.

    Raises:
        InputError: that, or not a name of a group of rotations.
    """
    images = len(torch.unique(store.image))
    if len(operators(symmetry)) > 1 and images < len(store):
        raise InputError(
            f"{store.folder}: {len(store)} rows of {images} images are symmetry-expanded already, but "
            f"consensus.symmetry is {symmetry}; set consensus.symmetry to C1"
        )
