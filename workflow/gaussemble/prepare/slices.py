"""Sums of the slices of particles' images, read block by block, for one volume or for many at once."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.store import ImageStore
from gaussemble.physics.backprojection import Sums, empty_sums, insert, weighted_slices
from gaussemble.physics.symmetry import operators
from gaussemble.progress import progress
from gaussemble.quantities import Particles

BLOCK = 512  # images in memory at a time
BLOCK_PIXELS = 2**23  # or as many as have so many pixels, where that is fewer


@runtime_checkable
class Source(Protocol):
    """Particles whose images can be read: an image store, or the original stacks (`prepare.originals`)."""

    @property
    def particles(self) -> Particles:
        """What is known of each."""
        ...

    @property
    def half(self) -> Int[Tensor, " row"]:
        """The half-map that each belongs to."""
        ...

    @property
    def box(self) -> int:
        """Pixels along an edge."""
        ...

    @property
    def pixel_size(self) -> float:
        """Å."""
        ...

    def read(self, rows: Tensor) -> Float[Tensor, "image y x"]:
        """The images of some rows, ascending."""
        ...


def halves(source: Source, rows: Int[Tensor, " image"]) -> Int[Tensor, "image 2"]:
    """(row, 0 or 1) of each row: the half-map that its particle belongs to."""
    return torch.stack([rows, source.half[rows]], dim=-1)


def sum_slices(
    source: Source,
    pairs: Int[Tensor, "pair 2"],
    volumes: int,
    padding: int,
    count: Float[Tensor, " pair"] | None = None,
) -> Sums:
    """Insert images into several volumes in one pass; pair (r, v) adds row r to volume v, as often as it counts."""
    sums = empty_sums(volumes, source.box, padding)
    order = torch.argsort(pairs[:, 0], stable=True)
    pairs = pairs[order]
    count = torch.ones(len(pairs)) if count is None else count[order]
    rows, pairs_of_row = torch.unique_consecutive(pairs[:, 0], return_counts=True)
    ends = pairs_of_row.cumsum(0)
    size = max(1, min(BLOCK, BLOCK_PIXELS // source.box**2))
    for start in progress(range(0, len(rows), size), "reconstruction, blocks of images"):
        block = rows[start : start + size]
        here = slice(int(ends[start] - pairs_of_row[start]), int(ends[start + len(block) - 1]))
        local = torch.stack([torch.searchsorted(block, pairs[here, 0].contiguous()), pairs[here, 1]], dim=-1)
        particles = source.particles[block]
        data, weights = weighted_slices(source.read(block), particles, source.pixel_size)
        insert(sums, data, weights, particles.rotation, local, count[here])
    return sums


def check_symmetry(store: ImageStore, symmetry: str, key: str = "consensus.symmetry") -> None:
    """Refuse a symmetry that the particles already have as copies.

    Raises:
        InputError: that, or not a name of a group of rotations.
    """
    images = len(torch.unique(store.image))
    if len(operators(symmetry)) > 1 and images < len(store):
        raise InputError(
            f"{store.folder}: {len(store)} rows of {images} images are symmetry-expanded already, but {key} is "
            f"{symmetry}; set {key} to C1"
        )
