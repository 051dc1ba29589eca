"""Particles of a finished refinement, checked against their stacks, split, and stored at the working box.

Writes `particles.star` (the split's rows of the input, all columns; and what else `io.refinement` writes), the image
store and `report.json`: `star, split, particles` (different images), `rows` (with their copies), `particles_in_file,
box, pixel_size` (Å, of the stored images), `image_size, image_pixel_size` (of the stacks whose field of view it is),
`optics_groups, options` (of this stage), `contrast` (sign and evidence), `whitened, precision, storage_error, assumed`
(sentences), `left_out` (row and reason of each), `inspection` (`prepare.inspection.summarise`).

`halves` says which rows belong together, `grid` how images of several sizes come to one, `pixels` what is done to an
image, `whitening` by which filter, `contrast` which sign they have, `storing` how they stream into the store.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field

from gaussemble.errors import InputError
from gaussemble.io.files import write_json
from gaussemble.io.images import ParticleImages, open_images, with_paths_from_here
from gaussemble.io.refinement import Refinement, read_refinement
from gaussemble.io.relion import Metadata, interpret
from gaussemble.io.store import ImageWriter, write_particles, written_images
from gaussemble.options import StageOptions
from gaussemble.physics.rotations import euler_to_matrix
from gaussemble.physics.symmetry import operators
from gaussemble.prepare.contrast import COARSE_BOX, SAMPLE, Contrast, contrast_sign
from gaussemble.prepare.grid import Grid, said_of_headers, said_of_kinds, working_grid
from gaussemble.prepare.halves import (
    Halves,
    Split,
    expanded,
    half_maps,
    half_of_rows,
    identities,
    rows_of_split,
    said_of_copies,
)
from gaussemble.prepare.inspection import summarise
from gaussemble.prepare.pixels import Preparation, background
from gaussemble.prepare.storing import Stored, store_images
from gaussemble.prepare.whitening import measured_gain
from gaussemble.progress import say
from gaussemble.quantities import Particles


class Options(StageOptions):
    """What is stored, and what is believed of the input."""

    box: int | None = Field(
        default=None,
        ge=8,
        description="Pixels of the working box after Fourier cropping; none: as in the stacks, or where these have "
        "several pixel sizes as many as the coarsest allows.",
    )
    halves: Halves = Field(
        default="rows",
        description="How even and odd are told apart: rows (even rows of the STAR file, counted from 0, are even) or "
        "random_subset (rlnRandomSubset 1 is even, 2 is odd).",
    )
    contrast: Literal["auto", "white", "black"] = Field(
        default="auto",
        description="How protein looks in the stacks: white, black (the contrast is reversed), or auto: judged by "
        "consensus.map or a coarse reconstruction, and white where they do not tell.",
    )
    normalise: bool = Field(default=True, description="Bring each image's background to mean 0, standard deviation 1.")
    background_radius: float = Field(
        default=0.9, gt=0, le=1.2, description="Background is outside this fraction of half the box."
    )
    pixel_size: float | None = Field(default=None, gt=0, description="Å per pixel of the stacks; wins over the file's.")
    ctf: bool = Field(default=True, description="The images have a CTF, whose columns the file must have.")
    max_bad: int = Field(
        default=0, ge=0, description="How many particles with unusable images may be left out before it is an error."
    )
    whiten: bool = Field(
        default=False,
        description="Divide the images by the square root of their noise spectrum, one for all. Maps are then filtered "
        "likewise, so that none may be given; the likelihood in training whitens by itself.",
    )
    precision: Literal["float32", "float16"] = Field(
        default="float32", description="Of the stored images; float16 takes half of the space, its error is reported."
    )
    expand: str = Field(
        default="C1",
        description="Point group (C2, D7, T, O, I1 ...) under which each particle is copied, one row for each "
        "equivalent view; copies share their image and half.",
    )


@dataclass(frozen=True)
class Rows:
    """What the store's rows are made of, one entry for each."""

    row: Int[np.ndarray, " copy"]  # of the input
    angles: Float[np.ndarray, "copy 3"]  # radians
    half: Int[np.ndarray, " copy"]
    image: Int[np.ndarray, " copy"]  # position in the store


def particles(
    *,
    star: Path,
    out: Path,
    split: Split,
    datadir: Path | None = None,
    passthrough: Path | None = None,
    poses: Path | None = None,
    ctf_file: Path | None = None,
    map: Path | None = None,
    options: Options,
) -> None:
    """Check the particles of a refinement and write those of one split into the folder `out`.

    Args:
        star: STAR file, .cs, or a stack of cryoDRGN's (`io.refinement`).
        out: folder of the results.
        split: full, even or odd.
        datadir: where image paths start.
        passthrough: of a .cs file.
        poses: cryoDRGN's.
        ctf_file: cryoDRGN's.
        map: the user's consensus map, which tells the sign of the contrast.
        options: of this stage.

    Raises:
        InputError: anything in the input that cannot be, with its row or option.
    """
    _check_options(datadir, map, options)
    refinement = read_refinement(star, passthrough, poses, ctf_file, datadir)
    table = refinement.star
    metadata = interpret(table, options.pixel_size, options.ctf)
    images = open_images(table, datadir)
    grid = working_grid(star, metadata, images, options.box)
    identity = identities(star, images, metadata)
    assumed = [*refinement.assumed, *metadata.assumed, *said_of_headers(metadata, images)]
    assumed += said_of_kinds(grid) + said_of_copies(identity)
    for sentence in assumed:
        say(f"{star}: {sentence}")

    half = half_of_rows(table, identity, options.halves)
    chosen = rows_of_split(star, half, split, options.halves)
    own = np.unique(identity[chosen])  # an image is stored once
    with written_images(out, grid.box, options.precision) as writer:
        prepare = preparation(images, own, grid, options)
        sample = (SAMPLE if options.contrast == "auto" else 0, min(grid.box, COARSE_BOX))
        stored = store_images(images, own, prepare, writer, options.max_bad, sample)
        rows = _rows(chosen[np.isin(identity[chosen], stored.rows)], identity, half, metadata, split, options)
        contrast = settle_contrast(stored, writer, grid, metadata, refinement.sign, map, options)
    if options.contrast == "auto":
        say(f"{star}: {contrast.evidence}")
    known = as_particles(metadata, rows, identity)
    write_particles(out, known, grid.box, grid.pixel_size, rows.half, rows.image)
    _written_back(refinement, images, rows, metadata).write(out)
    report = {
        "star": str(star),
        "split": split,
        "particles": len(stored.rows),
        "rows": len(rows.row),
        "particles_in_file": len(table),
        "box": grid.box,
        "pixel_size": grid.pixel_size,
        "image_size": grid.kinds[grid.reference].size,
        "image_pixel_size": grid.kinds[grid.reference].pixel_size,
        "optics_groups": len(np.unique(metadata.optics_group[rows.row])),
        "options": options.model_dump(),
        "contrast": {"option": options.contrast, "sign": contrast.sign, "evidence": contrast.evidence},
        "whitened": options.whiten,
        "precision": options.precision,
        "storage_error": writer.error,
        "assumed": assumed,
        "left_out": stored.left_out,
        "inspection": summarise(
            metadata,
            known,
            rows.half,
            np.concatenate(stored.statistics).astype(np.float64)[rows.image],
            table,
            grid.box * grid.pixel_size,
        ),
    }
    write_json(out / "report.json", report)
    copies = f" in {len(rows.row)} rows" if len(rows.row) > len(stored.rows) else ""
    say(
        f"{len(stored.rows)} of {len(np.unique(identity))} particles ({split}){copies}, {grid.box} pixels of "
        f"{grid.pixel_size:.4g} Å, in {out}"
    )


def _check_options(datadir: Path | None, map: Path | None, options: Options) -> None:
    """What can be said before anything is read."""
    if datadir is not None and not datadir.is_dir():
        raise InputError(f"option particles.datadir: no such folder: {datadir}")
    operators(options.expand)
    if map is not None and options.whiten:
        raise InputError(
            f"option particles.whiten: the consensus map {map} has not the spectrum of whitened images; leave one out"
        )


def _rows(
    chosen: Int[np.ndarray, " chosen"],
    identity: Int[np.ndarray, " row"],
    half: Int[np.ndarray, " row"],
    metadata: Metadata,
    split: Split,
    options: Options,
) -> Rows:
    """The store's rows: those of the split whose image is stored, with the copies that the options ask for."""
    copy, angles = expanded(metadata.angles[chosen], options.expand)
    row = chosen[copy]
    image = np.searchsorted(np.unique(identity[chosen]), identity[row])
    return Rows(row, angles, half_maps(half[row], identity[row], split), image)


def as_particles(metadata: Metadata, rows: Rows, identity: Int[np.ndarray, " row"]) -> Particles:
    """What is known of these rows, with orientations as matrices."""
    index = torch.from_numpy(rows.row)
    return Particles(
        particle=torch.from_numpy(identity[rows.row]),
        rotation=euler_to_matrix(torch.from_numpy(rows.angles)).float(),
        shift=torch.from_numpy(metadata.shift[rows.row]).float(),
        ctf=metadata.ctf[index],
        optics_group=torch.from_numpy(metadata.optics_group[rows.row]),
    )


def preparation(images: ParticleImages, rows: Int[np.ndarray, " row"], grid: Grid, options: Options) -> Preparation:
    """What is done to the images of a split, as the options say."""
    outside = background(grid.box, options.background_radius)
    plain = Preparation(grid, -1 if options.contrast == "black" else 1, outside if options.normalise else None)
    if not options.whiten:
        return plain
    even = replace(plain, outside=outside)  # each image counts alike
    return replace(plain, gain=measured_gain(images, rows, even, options.background_radius))


def settle_contrast(
    stored: Stored,
    writer: ImageWriter,
    grid: Grid,
    metadata: Metadata,
    stated: int | None,
    map: Path | None,
    options: Options,
) -> Contrast:
    """The sign of the molecule in the stacks; where it is found to be dark, the stored images are reversed.

    `stated`: what the input says of it. The images win where they are sure; where they are not, it counts.
    """
    if options.contrast != "auto":
        return Contrast(1 if options.contrast == "white" else -1, f"given as {options.contrast}")
    rows = np.array(stored.sample_rows, np.int64)
    some = Rows(rows, metadata.angles[rows], np.arange(len(rows)) % 2, np.arange(len(rows)))
    sample = torch.cat(stored.sample)
    outside = background(sample.shape[-1], options.background_radius)
    sample = sample - sample[:, outside].mean(dim=1)[:, None, None]  # not at 0 where images are not normalised
    pixel_size = grid.pixel_size * grid.box / sample.shape[-1]
    known = as_particles(metadata, some, np.arange(len(metadata.angles)))
    found = contrast_sign(sample, known, pixel_size, torch.from_numpy(some.half), map)
    sign = found.sign or stated or 1
    if sign == -1:
        writer.negate()
    done = "reversed" if sign == -1 else "kept"
    if found.sign == 0:
        done += ", as the input says" if stated else " (undecided; set particles.contrast to white or black)"
    elif stated not in (None, found.sign):
        done += f", though the input says protein is {'dark' if stated == -1 else 'light'}"
    return Contrast(sign, f"contrast {done}: {found.evidence}")


def _written_back(refinement: Refinement, images: ParticleImages, rows: Rows, metadata: Metadata) -> Refinement:
    """The rows in the user's format, with image paths that resolve from here and the poses of copies."""
    result = replace(refinement, star=with_paths_from_here(refinement.star, images)).rows(rows.row)
    if np.array_equal(rows.angles, metadata.angles[rows.row]):
        return result
    return result.with_angles(rows.angles)
