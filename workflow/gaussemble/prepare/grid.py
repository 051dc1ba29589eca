"""The grid on which images are stored, and how images of several pixel sizes come to it.

One size of images is Fourier-cropped, the field of view kept. Of several, the smallest field of view is taken, and all
are resampled (`physics.fourier.resample`): larger fields are cropped round pixel D//2, the origin of every image.

Scale. Pixels keep their values, so that a molecule has the same density on the new grid as on the old. After that each
image's background is brought to standard deviation 1 on the *working* grid: groups that have the same dose per Å² then
have the same signal as well, whatever their pixels were, since what the finer pixels had of noise beyond the working
Nyquist is gone. Groups of another dose, or of another detector, keep another signal scale; RELION has a scale per
group for that (rlnGroupScaleCorrection), we have none.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.images import ParticleImages
from gaussemble.io.mrc import SAME_SIZE
from gaussemble.io.relion import Metadata
from gaussemble.physics.fourier import fourier_crop, resampling

SAME_PIXEL = 1e-3  # relative: pixel sizes of one group, rounded; 0.13 pixels at the edge of 256
SMALLEST_FIELD = 0.7  # of the largest: what a smaller field of view cuts off may be molecule


@dataclass(frozen=True)
class Kind:
    """Images of one size."""

    size: int  # pixels along an edge
    pixel_size: float  # Å
    row: int  # the first that is of it

    @property
    def field(self) -> float:
        """Å along an edge."""
        return self.size * self.pixel_size

    def __str__(self) -> str:
        return f"{self.size} pixels of {self.pixel_size:.4g} Å (row {self.row} from 0)"


@dataclass(frozen=True)
class Grid:
    """The working grid, and what images come to it."""

    box: int
    pixel_size: float  # Å
    kinds: tuple[Kind, ...]
    kind: Int[np.ndarray, " row"]  # which of them each row is
    reference: int  # the kind whose field of view it is

    @cached_property
    def _matrices(self) -> list[Float[Tensor, "new old"] | None]:
        """What resamples each kind; None for those with the same field of view, which are cropped."""
        return [
            None
            if np.isclose(kind.field, self.box * self.pixel_size, rtol=1e-9)
            else resampling(kind.size, kind.pixel_size, self.box, self.pixel_size)
            for kind in self.kinds
        ]

    def place(self, images: Float[Tensor, "image y x"], kind: int) -> Float[Tensor, "image box box"]:
        """Images of a kind on the grid."""
        matrix = self._matrices[kind]
        return fourier_crop(images, self.box) if matrix is None else matrix @ images @ matrix.T


def find_kinds(star: Path, metadata: Metadata, images: ParticleImages) -> tuple[tuple[Kind, ...], np.ndarray]:
    """The different image sizes, in order of appearance, and (row,) which of them each row is.

    Raises:
        InputError: the optics table has another size than the stacks.
    """
    sizes, stated = images.sizes, metadata.image_sizes
    if stated is not None and (stated != sizes).any():
        row = int(np.argmax(stated != sizes))
        raise InputError(
            f"{star}: the optics table says images of {stated[row]} pixels, {images.name(row)} (row {row} from 0) has "
            f"{sizes[row]}; is it the right stack?"
        )
    which, _ = pd.factorize(pd.factorize(sizes)[0] * len(sizes) + pd.factorize(metadata.pixel_sizes)[0])
    kinds: list[Kind] = []
    joined = []
    for row in np.flatnonzero(~pd.Series(which).duplicated()).tolist():
        kind = Kind(int(sizes[row]), float(metadata.pixel_sizes[row]), row)
        same = [one.size == kind.size and abs(kind.pixel_size / one.pixel_size - 1) < SAME_PIXEL for one in kinds]
        joined.append(same.index(True) if any(same) else len(kinds))
        if not any(same):
            kinds.append(kind)
    return tuple(kinds), np.array(joined)[which]


def working_grid(star: Path, metadata: Metadata, images: ParticleImages, box: int | None) -> Grid:
    """The grid of the stored images.

    Args:
        star: the file, for messages.
        metadata: of its rows.
        images: of its rows.
        box: pixels along an edge; None: as many as do not invent detail that the coarsest images lack.

    Raises:
        InputError: the box is larger than that; fields of view too different; sizes contradict each other.
    """
    kinds, kind = find_kinds(star, metadata, images)
    reference = int(np.argmin([one.field for one in kinds]))
    field, coarsest = kinds[reference].field, max(kinds, key=lambda one: one.pixel_size)
    widest = max(kinds, key=lambda one: one.field)
    if field < SMALLEST_FIELD * widest.field:
        raise InputError(
            f"{star}: {kinds[reference]} show {field:.4g} Å, but {widest} show {widest.field:.4g} Å: too different to "
            "be used together; extract the particles again in boxes of about the same size in Å"
        )
    most = kinds[0].size if len(kinds) == 1 else 2 * int(field / coarsest.pixel_size * (1 + 1e-6) / 2)
    if box is not None and box > most:
        raise InputError(
            f"option particles.box, {box}, is larger than the images of {star} allow ({coarsest}): expected at most "
            f"{most} pixels"
        )
    box = most if box is None else box
    return Grid(box, field / box, kinds, kind, reference)


def said_of_kinds(grid: Grid) -> list[str]:
    """A sentence where images are resampled."""
    if len(grid.kinds) == 1:
        return []
    counts = np.bincount(grid.kind, minlength=len(grid.kinds))
    found = ", ".join(f"{count} of {kind}" for kind, count in zip(grid.kinds, counts, strict=True))
    return [
        f"images of {len(grid.kinds)} sizes ({found}) are resampled to {grid.box} pixels of {grid.pixel_size:.4g} Å"
    ]


def said_of_headers(metadata: Metadata, images: ParticleImages) -> list[str]:
    """A sentence if stacks say another pixel size; the STAR file's is used."""
    used, first = np.unique(images.stack, return_index=True)
    sizes = [(images.stacks[one], float(metadata.pixel_sizes[row])) for one, row in zip(used, first, strict=True)]
    other = [
        (stack, size)
        for stack, size in sizes
        if stack.pixel_size is not None and abs(stack.pixel_size / size - 1) > SAME_SIZE
    ]
    if not other:
        return []
    stack, size = other[0]
    return [
        f"{len(other)} of {len(images.stacks)} stacks say another pixel size in their header ({stack.path}: "
        f"{stack.pixel_size:.4g} Å); {size:.4g} Å is used"
    ]
