"""The original images of a store's particles, at the box of their stacks: a map as fine as the data are.

They are found by the names in the store's particles.star, and prepared as the store's were: contrast, whitening, and
the background's mean and deviation *on the working grid*, and times the ratio of the pixel sizes: a line through the
molecule passes so many more voxels. A map of them then has the density of the store's maps, and cropped to the working
box is the map of the stored images.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import read_json
from gaussemble.io.images import ParticleImages, open_images
from gaussemble.io.relion import interpret
from gaussemble.io.star import StarFile
from gaussemble.io.store import ImageStore
from gaussemble.physics.fourier import fourier_crop, resample_3d
from gaussemble.prepare.grid import Grid, working_grid
from gaussemble.prepare.pixels import Preparation, background, filtered
from gaussemble.prepare.whitening import measured_gain
from gaussemble.quantities import Map, Particles


@dataclass(frozen=True)
class OriginalImages:
    """What `slices.Source` asks for, of images in their stacks."""

    particles: Particles
    half: Int[Tensor, " row"]
    image: Int[Tensor, " row"]  # rows of one image share it
    images: ParticleImages  # of each row
    grid: Grid
    working_box: int
    sign: int  # -1: the contrast is reversed
    outside: Bool[Tensor, "working working"] | None  # the background on the working grid, None: it is not normalised
    gain: Float[Tensor, "box half"] | None  # of the whitening filter

    @property
    def box(self) -> int:
        """Pixels along an edge."""
        return self.grid.box

    @property
    def pixel_size(self) -> float:
        """Å."""
        return self.grid.pixel_size

    def read(self, rows: Int[Tensor, " image"]) -> Float[Tensor, "image y x"]:
        """The images of some rows, prepared; of copies the image is read once."""
        _, inverse = torch.unique(self.image[rows], return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(rows)).scatter_reduce(
            0, inverse, torch.arange(len(rows)), "amin"
        )
        return self._unique(rows[first].numpy())[inverse]

    def _unique(self, rows: Int[np.ndarray, " image"]) -> Float[Tensor, "image y x"]:
        """Images of rows that do not share them."""
        result = torch.empty(len(rows), self.box, self.box)
        for kind in np.unique(self.grid.kind[rows]).tolist():
            own = np.flatnonzero(self.grid.kind[rows] == kind)
            raw = torch.from_numpy(self.images.read(rows[own]))
            result[torch.from_numpy(own)] = self._prepared(self.grid.place(raw, kind))
        return result

    def _prepared(self, images: Float[Tensor, "image y x"]) -> Float[Tensor, "image y x"]:
        """Images on the grid, as the stored ones are on theirs."""
        finer = self.box / self.working_box
        images = self.sign * images
        if self.gain is not None:
            images = filtered(images, self.gain)
        if self.outside is None:
            return finer * images
        values = fourier_crop(images, self.working_box)[:, self.outside]
        deviation, mean = torch.std_mean(values, dim=1, correction=0)
        return (images - mean[:, None, None]) * (finer / deviation)[:, None, None]


def open_originals(store: ImageStore, star: StarFile) -> OriginalImages:
    """The stacks of a store's particles.

    Args:
        store: of the split.
        star: its particles.star, a row for each of the store's.

    Raises:
        InputError: stacks that are no more, or have changed.
    """
    report = read_json(store.folder / "report.json")
    if "options" not in report:
        raise InputError(f"{store.folder / 'report.json'}: no key options; run the stage particles again")
    options: dict[str, Any] = report["options"]
    images = open_images(star)
    metadata = interpret(star, options["pixel_size"], options["ctf"])
    grid = working_grid(star.path, metadata, images, None)
    outside = background(store.box, options["background_radius"]) if options["normalise"] else None
    found = OriginalImages(
        store.particles, store.half, store.image, images, grid, store.box, report["contrast"]["sign"], outside, None
    )
    if not options["whiten"]:
        return found
    plain = Preparation(grid, 1, background(grid.box, options["background_radius"]))
    rows = np.unique(store.image.numpy(), return_index=True)[1]
    return replace(found, gain=measured_gain(images, rows, plain, options["background_radius"]))


def on_grid_of(mask: Map, source: OriginalImages) -> Map:
    """A map of the working grid, a mask, on that of the original images; the frame's centre stays where it is."""
    voxels = resample_3d(mask.voxels, mask.pixel_size, source.box, source.pixel_size).clamp(0, 1)
    corner = [float(value) for value in mask.center - source.box // 2 * source.pixel_size]
    return Map(voxels, source.pixel_size, (corner[0], corner[1], corner[2]))
