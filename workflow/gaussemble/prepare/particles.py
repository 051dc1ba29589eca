"""Particles of a finished refinement, checked against their stacks, split, and stored at the working box.

Writes `particles.star` (the split's rows of the input, all columns), the image store and `report.json`:
`star, split, particles, particles_in_file, box, pixel_size` (Å, of the stored images), `image_size, image_pixel_size`
(of the stacks), `optics_groups, assumed` (sentences), `left_out` (row and reason of each).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.files import write_json
from gaussemble.io.images import ParticleImages, open_images, with_paths_from_here
from gaussemble.io.mrc import SAME_SIZE
from gaussemble.io.relion import Metadata, interpret
from gaussemble.io.star import StarFile, numbers, read_star, write_star
from gaussemble.io.store import write_particles, written_images
from gaussemble.options import StageOptions
from gaussemble.physics.fourier import fourier_crop
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.progress import progress, say
from gaussemble.quantities import Particles

Split = Literal["full", "even", "odd"]
Halves = Literal["rows", "random_subset"]
BLOCK_BYTES = 2**25  # of float32 images as they are in the stacks; the transforms take a few times that


class Options(StageOptions):
    """What is stored, and what is believed of the input."""

    box: int | None = Field(
        default=None, ge=8, description="Pixels of the working box after Fourier cropping; none: as in the stacks."
    )
    halves: Halves = Field(
        default="rows",
        description="How even and odd are told apart: rows (even rows of the STAR file, counted from 0, are even) or "
        "random_subset (rlnRandomSubset 1 is even, 2 is odd).",
    )
    invert: bool = Field(default=False, description="Reverse the contrast, for images with dark protein.")
    normalise: bool = Field(default=True, description="Bring each image's background to mean 0, standard deviation 1.")
    background_radius: float = Field(
        default=0.9, gt=0, le=1.2, description="Background is outside this fraction of half the box."
    )
    pixel_size: float | None = Field(default=None, gt=0, description="Å per pixel of the stacks; wins over the file's.")
    ctf: bool = Field(default=True, description="The images have a CTF, whose columns the file must have.")
    max_bad: int = Field(
        default=0, ge=0, description="How many particles with unusable images may be left out before it is an error."
    )


def particles(*, star: Path, out: Path, split: Split, datadir: Path | None = None, options: Options) -> None:
    """Check the particles of a STAR file and write those of one split into the folder `out`."""
    if datadir is not None and not datadir.is_dir():
        raise InputError(f"option particles.datadir: no such folder: {datadir}")
    table = read_star(star)
    metadata = interpret(table, options.pixel_size, options.ctf)
    images = open_images(table, datadir)
    box = working_box(star, metadata, images, options.box)
    assumed = metadata.assumed + _compare_headers(metadata, images)
    for sentence in assumed:
        say(f"{star}: {sentence}")

    rows = rows_of_split(table, split, options.halves)
    rows, left_out = _store_images(images, rows, out, box, options)
    pixel_size = metadata.pixel_size * images.size / box
    write_particles(out, as_particles(metadata, rows), box, pixel_size)
    write_star(out / "particles.star", with_paths_from_here(table, images).rows(rows))
    write_json(
        out / "report.json",
        {
            "star": str(star),
            "split": split,
            "particles": len(rows),
            "particles_in_file": len(table),
            "box": box,
            "pixel_size": pixel_size,
            "image_size": images.size,
            "image_pixel_size": metadata.pixel_size,
            "optics_groups": len(np.unique(metadata.optics_group[rows])),
            "assumed": assumed,
            "left_out": left_out,
        },
    )
    say(f"{len(rows)} of {len(table)} particles ({split}), {box} pixels of {pixel_size:.4g} Å, in {out}")


def rows_of_split(star: StarFile, split: Split, halves: Halves) -> np.ndarray:
    """(image,) the 0-based rows that belong to a split, ascending.

    Raises:
        InputError: no row does, or rlnRandomSubset is missing or not 1 or 2.
    """
    _refuse_repeated(star)
    if split == "full":
        return np.arange(len(star))
    half = np.arange(len(star)) % 2 if halves == "rows" else _random_subset(star)
    rows = np.flatnonzero(half == ("even", "odd").index(split))
    if not len(rows):
        raise InputError(f"{star.path}: no particle is in the {split} half ({len(star)} rows, halves by {halves})")
    return rows


def _refuse_repeated(star: StarFile) -> None:
    """One image in two rows would stand in both halves, whose maps then share its noise and agree by it."""
    image = pd.Series(star.particles["rlnImageName"]).str.lstrip("0")
    repeated = image.duplicated()
    if repeated.any():
        second = int(np.argmax(repeated))
        first = int(np.argmax(image == image[second]))
        raise InputError(
            f"{star.path}: rows {first} and {second} (from 0) are the same image {image[second]}, and so are "
            f"{int(repeated.sum())} rows in all; even and odd must not share images: leave one row of each (a "
            "symmetry-expanded file: use the refinement's own)"
        )


def _random_subset(star: StarFile) -> np.ndarray:
    """(image,) 0 or 1."""
    subset = numbers(star, "rlnRandomSubset")
    if subset is None:
        raise InputError(f"{star.path}: no column rlnRandomSubset; set particles.halves to rows")
    wrong = ~np.isin(subset, (1, 2))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{star.path}: row {row} (from 0): rlnRandomSubset is {subset[row]:g}, expected 1 or 2")
    return subset.astype(np.int64) - 1


def working_box(star: Path, metadata: Metadata, images: ParticleImages, box: int | None) -> int:
    """The box of the stored images.

    Raises:
        InputError: it is larger than the images, or the optics table has another size than the stacks.
    """
    if metadata.image_size not in (None, images.size):
        raise InputError(
            f"{star}: the optics table says images of {metadata.image_size} pixels, {images.stacks[0].path} has "
            f"{images.size}; is it the right stack?"
        )
    if box is not None and box > images.size:
        raise InputError(
            f"option particles.box, {box}, is larger than the images of {star}: expected at most {images.size} pixels"
        )
    return images.size if box is None else box


def as_particles(metadata: Metadata, rows: np.ndarray) -> Particles:
    """What is known of these rows, with orientations as matrices."""
    index = torch.from_numpy(rows)
    return Particles(
        particle=index,
        rotation=euler_to_matrix(torch.from_numpy(metadata.angles[rows])).float(),
        shift=torch.from_numpy(metadata.shift[rows]).float(),
        ctf=metadata.ctf[index],
        optics_group=torch.from_numpy(metadata.optics_group[rows]),
    )


def background(box: int, radius: float) -> Bool[Tensor, "y x"]:
    """True outside the circle of this fraction of half the box, round pixel D//2."""
    axis = torch.arange(box) - box // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 > (radius * box / 2) ** 2


def normalised(images: Float[Tensor, "image y x"], outside: Bool[Tensor, "y x"]) -> Float[Tensor, "image y x"]:
    """Images whose background has mean 0 and standard deviation 1; NaN where it is constant."""
    values = images[:, outside].double()
    deviation, mean = torch.std_mean(values, dim=1, correction=0)
    spread = images.double().std(dim=(1, 2), correction=0)
    deviation = torch.where(deviation > 1e-6 * spread, deviation, torch.nan)
    return ((images - mean[:, None, None]) / deviation[:, None, None]).float()


def prepared(
    raw: Float[Tensor, "image y x"], box: int, options: Options
) -> tuple[Float[Tensor, "image box box"], np.ndarray]:
    """Images as they are stored, and (image,) the reason why one is unusable, empty where it is not."""
    finite = raw.isfinite().all(dim=2).all(dim=1)
    constant = raw.amax(dim=(1, 2)) == raw.amin(dim=(1, 2))
    stored = fourier_crop(torch.where(finite[:, None, None], raw, 0), box)
    if options.invert:
        stored = -stored
    if options.normalise:
        stored = normalised(stored, background(box, options.background_radius))
    flat = ~stored.isfinite().all(dim=2).all(dim=1)
    reasons = ("a pixel is NaN or infinite", "all pixels are equal", "its background is constant (masked?)")
    return stored, np.select([~finite.numpy(), constant.numpy(), flat.numpy()], reasons, "")


def _store_images(
    images: ParticleImages, rows: np.ndarray, out: Path, box: int, options: Options
) -> tuple[np.ndarray, list[dict]]:
    """Write the images of the rows; return the rows that were usable, and the others with their reason.

    Raises:
        InputError: more are unusable than the options allow, or all.
    """
    size = max(1, BLOCK_BYTES // (4 * images.size**2))
    kept, left_out = [], []
    with written_images(out, box) as append:
        for block in progress([rows[start : start + size] for start in range(0, len(rows), size)], "storing images"):
            stored, reasons = prepared(torch.from_numpy(images.read(block)), box, options)
            usable = reasons == ""
            append(stored[torch.from_numpy(usable)])
            kept.append(block[usable])
            left_out += [
                {"row": row, "image": images.name(row), "reason": reason}
                for row, reason in zip(block[~usable].tolist(), reasons[~usable].tolist(), strict=True)
            ]
            _refuse_too_many(left_out, options.max_bad, len(rows))
    return np.concatenate(kept), left_out


def _refuse_too_many(left_out: list[dict], allowed: int, count: int) -> None:
    """Say which is the first."""
    if len(left_out) > allowed or len(left_out) == count:
        first = left_out[0]
        raise InputError(
            f"{first['image']} (row {first['row']} from 0): {first['reason']}; {len(left_out)} unusable images so far, "
            f"particles.max_bad allows {allowed}: repair the stack, remove the rows, or allow more"
        )


def _compare_headers(metadata: Metadata, images: ParticleImages) -> list[str]:
    """A sentence if stacks say another pixel size; the STAR file's is used."""
    other = [
        stack
        for stack in images.stacks
        if stack.pixel_size is not None and not np.isclose(stack.pixel_size, metadata.pixel_size, rtol=SAME_SIZE)
    ]
    if not other:
        return []
    return [
        f"{len(other)} of {len(images.stacks)} stacks say another pixel size in their header ({other[0].path}: "
        f"{other[0].pixel_size:.4g} Å); {metadata.pixel_size:.4g} Å is used"
    ]
