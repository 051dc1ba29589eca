"""STAR files of particles: read, filtered by row, written. Every value stays the text that stood in the file.

`relion` says what the columns mean; `images` follows rlnImageName to the stacks.
"""

import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile

from gaussemble.errors import InputError
from gaussemble.io.files import written

IMAGE_NAME = "rlnImageName"


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
    blocks = _read_blocks(path)
    name = _particle_block(path, blocks)
    particles = _as_table(blocks.pop(name))
    if not len(particles):
        raise InputError(f"{path}: the table data_{name} is empty; expected one row per particle")
    repeated = [column for column, count in Counter(particles.columns).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: data_{name} has the column {', '.join(repeated)} twice; remove one")
    optics = _as_table(blocks.pop("optics")) if "optics" in blocks else None
    return StarFile(path, optics, particles, blocks, name)


def write_star(path: Path, star: StarFile) -> None:
    """Write all blocks, particles last, as RELION does."""
    blocks = dict(star.other)
    if star.optics is not None:
        blocks["optics"] = star.optics
    blocks[star.block] = star.particles
    text = starfile.to_string(blocks, na_rep="nan", float_format="%.6f")
    # starfile's first line is a time stamp, which would make equal results differ.
    body = text.split("\n", 1)[1].lstrip("\n")
    with written(path) as temporary:
        temporary.write_text(f"# version {30001 if star.optics is not None else 30000}\n\n{body}")


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


def _read_blocks(path: Path) -> dict[str, Any]:
    """All blocks as text, by name."""
    names, labels = _scan(path)
    if not names:
        raise InputError(f"{path}: not a STAR file (no data_ block); expected a particle STAR file of RELION")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: the block data_{repeated[0]} stands twice; keep one, or give them other names")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=pd.errors.ParserWarning)
            return starfile.read(path, always_dict=True, parse_as_string=sorted(labels))  # type: ignore[return-value]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"{path}: cannot be read as STAR ({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "expected as many values in each row as the loop has labels"
        ) from error


def _scan(path: Path) -> tuple[list[str], set[str]]:
    """Names of the blocks, in order, and of all columns: which starfile needs to leave values as they are."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a particle STAR file")
    names, labels = [], set()
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                line = line.strip()
                if line.startswith("data_"):
                    names.append(line[5:])
                elif line.startswith("_"):
                    labels.add(line.split()[0][1:])
    except UnicodeDecodeError:
        hint = "convert a .cs of cryoSPARC to STAR" if path.suffix == ".cs" else "uncompress it if it is .gz"
        raise InputError(f"{path}: not a text file; expected a particle STAR file ({hint})") from None
    return names, labels


def _particle_block(path: Path, blocks: dict[str, Any]) -> str:
    """The block of the particles: data_particles, or the only one that names images."""
    named = [name for name, block in blocks.items() if name != "optics" and IMAGE_NAME in block]
    if "particles" in named:
        return "particles"
    if len(named) == 1:
        return named[0]
    found = _describe(blocks)
    if named:
        raise InputError(f"{path}: {len(named)} blocks have a column {IMAGE_NAME}, expected one; it has {found}")
    if "particles" in blocks or len(blocks) == 1:
        block = blocks.get("particles", next(iter(blocks.values())))
        if isinstance(block, pd.DataFrame) and block.empty:
            raise InputError(f"{path}: no rows; it has {found}")
    raise InputError(f"{path}: no particles with images (no column {IMAGE_NAME}); it has {found}")


def _describe(blocks: dict[str, Any], most: int = 5) -> str:
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
    """A column of text as float64."""
    result = np.asarray(pd.to_numeric(table[column], errors="coerce"), np.float64)
    wrong = ~np.isfinite(result)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path}: {where} {row} (from 0): {column} is '{table[column].iloc[row]}', expected a number "
            f"({int(wrong.sum())} such rows)"
        )
    return result
