"""STAR files of particles: read, filtered by row, written. Every value stays the text that stood in the file.

`relion` says what the columns mean; `images` follows rlnImageName to the stacks.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gaussemble.errors import InputError
from gaussemble.io.files import written
from gaussemble.io.star_text import Blocks, read_blocks, write_blocks

IMAGE_NAME = "rlnImageName"
KINDS = {  # a block or column that only they have -> what users give by mistake, the most telling first
    "optimiser_general": "the state of a refinement (run_optimiser.star)",
    "model_general": "the model of a refinement (run_model.star)",
    "sampling_general": "the sampling of a refinement (run_sampling.star)",
    "job": "the settings of a job (job.star)",
    "pipeline_general": "the pipeline of a project",
    "scheme_general": "a scheme of jobs",
    "stopgap_motivelist": "a motive list of STOPGAP; subtomograms are not supported",
    "stopgap_wedgelist": "a wedge list of STOPGAP; subtomograms are not supported",
    "rlnTomoTiltSeriesStarFile": "a list of tomograms; tomography is not supported",
    "rlnTomoNominalStageTiltAngle": "the tilts of a tomogram; tomography is not supported",
    "rlnTomoName": "a list of particles in tomograms; tomography is not supported",
    "rlnReferenceImage": "a list of class averages or references",
    "rlnFourierShellCorrelation": "a Fourier shell correlation (postprocess.star)",
    "rlnCoordinateX": "a list of coordinates or particles",
    "rlnMicrographMovieName": "a list of movies",
    "rlnMicrographName": "a list of micrographs",
}


@dataclass(frozen=True)
class StarFile:
    """A particle table with the optics table and the other blocks that stood beside it."""

    path: Path
    optics: pd.DataFrame | None  # RELION 3.1 and later
    particles: pd.DataFrame
    other: dict[str, Any] = field(default_factory=dict)
    block: str = "particles"  # the particle table's name, without data_

    def __len__(self) -> int:
        return len(self.particles)

    def rows(self, index: Any) -> "StarFile":
        """The particles of these 0-based rows (or of a boolean mask), in the order of this file, with all columns."""
        index = np.asarray(index)
        chosen = np.flatnonzero(index) if index.dtype == bool else np.sort(index.astype(np.int64))
        return replace(self, particles=self.particles.iloc[chosen].reset_index(drop=True))

    def with_column(self, name: str, values: Any) -> "StarFile":
        """The same file with one column of the particle table set."""
        return replace(self, particles=self.particles.assign(**{name: values}))


def read_star(path: Path) -> StarFile:
    """Read a RELION particle STAR file of any version.

    Raises:
        InputError: no such file, not a STAR file, a block that stands twice, no particles in it.
    """
    blocks = read_blocks(path)
    name = _particle_block(path, blocks)
    particles = _as_table(blocks.pop(name))
    if not len(particles):
        raise InputError(f"{path}: the table data_{name} is empty; expected one row per particle")
    optics = _as_table(blocks.pop("optics")) if "optics" in blocks else None
    return StarFile(path, optics, particles, dict(blocks), name)


def write_star(path: Path, star: StarFile) -> None:
    """Write all blocks, particles last, as RELION does.

    Raises:
        InputError: the file cannot be written, or a value cannot stand in a STAR file.
    """
    blocks = dict(star.other)
    if star.optics is not None:
        blocks["optics"] = star.optics
    blocks[star.block] = star.particles
    with written(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"# version {30001 if star.optics is not None else 30000}\n")
        write_blocks(file, blocks)


def numbers(star: StarFile, column: str) -> np.ndarray | None:
    """(image,) float64 values of a column, from the particle table or else through the optics group.

    None where neither table has it. RELION looks in the same order (`CTF::readValue`).

    Raises:
        InputError: a value that is not a finite number.
    """
    if column in star.particles:
        return _to_numbers(star.path, star.particles, column, "row")
    if star.optics is not None and column in star.optics:
        return _to_numbers(star.path, star.optics, column, "optics table, row")[optics_rows(star)]
    return None


def optics_rows(star: StarFile) -> np.ndarray:
    """(image,) int64: each particle's 0-based row in the optics table; all 0 without one, or if it has a single row.

    Raises:
        InputError: a particle whose group the optics table does not have.
    """
    if star.optics is None:
        return np.zeros(len(star), np.int64)
    if "rlnOpticsGroup" not in star.optics or "rlnOpticsGroup" not in star.particles:
        if len(star.optics) != 1:
            raise InputError(
                f"{star.path}: {len(star.optics)} optics groups, but no column rlnOpticsGroup in both the optics and "
                "the particle table says which particle belongs to which; add it"
            )
        return np.zeros(len(star), np.int64)
    groups = pd.Index(_to_numbers(star.path, star.optics, "rlnOpticsGroup", "optics table, row"))
    if groups.has_duplicates:
        raise InputError(f"{star.path}: the optics table has a group twice; rlnOpticsGroup must be unique there")
    wanted = _to_numbers(star.path, star.particles, "rlnOpticsGroup", "row")
    rows = groups.get_indexer(pd.Index(wanted)).astype(np.int64)
    if (rows < 0).any():
        row = int(np.argmax(rows < 0))
        found = ", ".join(f"{group:g}" for group in groups)
        raise InputError(f"{star.path}: row {row} (from 0) is of optics group {wanted[row]:g}; the table has {found}")
    return rows


def _particle_block(path: Path, blocks: Blocks) -> str:
    """The block of the particles: data_particles, or the only one that names images.

    Raises:
        InputError: there is none, or more than one.
    """
    named = [name for name, block in blocks.items() if name != "optics" and IMAGE_NAME in block]
    if "particles" in named:
        return "particles"
    if len(named) == 1:
        return named[0]
    found = _describe(blocks)
    if named:
        raise InputError(f"{path}: {len(named)} blocks have a column {IMAGE_NAME}, expected one; it has {found}")
    what = _kind(blocks)
    if what is not None:
        raise InputError(
            f"{path}: this is {what}, without particle images (no column {IMAGE_NAME}); expected the particles of a "
            "refinement (run_data.star)"
        )
    if "particles" in blocks or len(blocks) == 1:
        block = blocks.get("particles", next(iter(blocks.values())))
        if len(block) == 0:
            raise InputError(f"{path}: no rows; it has {found}")
    raise InputError(f"{path}: no particles with images (no column {IMAGE_NAME}); it has {found}")


def _kind(blocks: Blocks) -> str | None:
    """What a file without particles is, by the names of its blocks or columns; None where that does not tell."""
    names = set(blocks) | {label for block in blocks.values() for label in block}
    return next((what for sign, what in KINDS.items() if sign in names), None)


def _describe(blocks: Blocks, most: int = 5) -> str:
    """The first blocks in a few words each."""
    words = [
        f"data_{name} ({len(block)} {'rows' if isinstance(block, pd.DataFrame) else 'values'})"
        for name, block in blocks.items()
    ]
    return ", ".join(words[:most] + [f"{len(words) - most} more"] * (len(words) > most))


def _as_table(block: Any) -> pd.DataFrame:
    """A table; RELION lets one of a single row be written as a list."""
    table = block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
    return table.reset_index(drop=True)


def _to_numbers(path: Path, table: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """A column, of text or of numbers, as float64."""
    result = _as_floats(pd.Series(table[column]))
    wrong = ~np.isfinite(result)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: {where} {row} (from 0): {column} is '{table[column].iloc[row]}', expected a number "
            f"({int(wrong.sum())} such rows)"
        )
    return result


def _as_floats(column: pd.Series) -> np.ndarray:
    """Float64 values, nan where there is no number."""
    if isinstance(column.dtype, pd.StringDtype):
        try:  # a third of the time of what follows
            return pa.array(column.array).cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            pass  # a value that Arrow does not take for a number
    return np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
