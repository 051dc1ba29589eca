"""Particles that the user chose, by any means, found among those of a split.

A selection is a table (CSV) with a column `particle`, the row of the input file from 0, as all our tables have it; or
particles of another program: a STAR file, whose images are matched by number and name, or a .cs, matched by uid. A
split makes its map of the particles that it has.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from jaxtyping import Int
from pydantic import Field

from gaussemble.errors import InputError
from gaussemble.io.cryosparc import SOURCE, CsFile, read_cs
from gaussemble.io.files import read_csv, read_json, write_csv
from gaussemble.io.images import image_references
from gaussemble.io.refinement import Refinement
from gaussemble.io.star import StarFile, read_star
from gaussemble.io.store import ImageStore
from gaussemble.options import StageOptions
from gaussemble.progress import say

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]*$"


class SelectionOptions(StageOptions):
    """Particles of the user's choice, of which a map is made."""

    name: str = Field(pattern=NAME, description="A name of your own; the results are in volumes/selection_NAME.")
    particles: Path = Field(
        description="Table (.csv) with a column particle, the row of the input file from 0; or a STAR file whose "
        "images are among the input's; or a .cs with uid of the input's."
    )


def refuse_repeated(selections: Sequence[SelectionOptions]) -> None:
    """Raise InputError for two selections of one name."""
    names = [each.name for each in selections]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"option selections.{number}.name: found {name} twice; give each a name of its own")


def find_selection(path: Path, store: ImageStore, refinement: Refinement) -> Int[np.ndarray, " row"]:
    """The store's rows that a file selects, ascending; none where all are of another split.

    Raises:
        InputError: the file cannot be read, or names particles that the input does not have.
    """
    report = read_json(store.folder / "report.json")
    if path.suffix == ".star":
        rows = _by_image(path, refinement, report)
    elif path.suffix == ".cs":
        rows = _by_uid(path, refinement, report)
    else:
        rows = _by_number(path, store, report)
    return np.flatnonzero(rows)


def _by_number(path: Path, store: ImageStore, report: dict) -> np.ndarray:
    """(row,) whether the table names it."""
    number, total = read_csv(path, ["particle"])["particle"].to_numpy(np.float64), report["particles_in_file"]
    known = (number % 1 == 0) & (number >= 0) & (number < total)
    if not known.all():
        row = int(known.argmin())
        raise InputError(
            f"{path}: row {row + 1}: particle is {number[row]:g}, expected a row of {report['star']}, a whole number "
            f"from 0 to {total - 1} ({int((~known).sum())} such rows)"
        )
    return np.isin(store.particles.particle.numpy(), number.astype(np.int64))


def _by_image(path: Path, refinement: Refinement, report: dict) -> np.ndarray:
    """(row,) whether the STAR file has its image."""
    chosen = read_star(path)
    own, asked = _tails(refinement.star, chosen)
    missing = ~asked.isin(own)
    if report["split"] == "full" and missing.any():
        _refuse_unknown(path, pd.Series(chosen.particles["rlnImageName"]), missing.to_numpy(), report)
    return own.isin(asked).to_numpy()


def _tails(ours: StarFile, chosen: StarFile) -> tuple[pd.Series, pd.Series]:
    """(row,) number@path of our images and of the chosen ones.

    Paths to one stack differ by where they start: as many of their last folders are compared as any two have in common.
    """
    own, others = image_references(ours), image_references(chosen)
    parts = [[PurePosixPath(name).parts for name in names] for names in (own[0], others[0])]
    depth = max(map(len, parts[0]))
    while depth > 1 and not {part[-depth:] for part in parts[0]} & {part[-depth:] for part in parts[1]}:
        depth -= 1

    def keys(part: list[tuple[str, ...]], which: np.ndarray, number: np.ndarray) -> pd.Series:
        tails = np.array(["/".join(each[-depth:]) for each in part], object)
        return pd.Series(np.maximum(number, 1).astype(str), dtype=object) + "@" + pd.Series(tails[which])

    return keys(parts[0], *own[1:]), keys(parts[1], *others[1:])


def _by_uid(path: Path, refinement: Refinement, report: dict) -> np.ndarray:
    """(row,) whether the .cs has its uid."""
    if refinement.cs is None:
        raise InputError(f"{path}: a .cs selects from a .cs, but {report['star']} is none; give a STAR file or a table")
    own, asked = _source_uids(refinement.cs), _source_uids(read_cs(path))
    missing = ~np.isin(asked, own)
    if report["split"] == "full" and missing.any():
        _refuse_unknown(path, pd.Series(asked), missing, report)
    return np.isin(own, asked)


def _source_uids(cs: CsFile) -> np.ndarray:
    """Of each row the uid of the particle that it is, or is a copy of."""
    return cs.table[SOURCE if SOURCE in (cs.table.dtype.names or ()) else "uid"]


def _refuse_unknown(path: Path, names: pd.Series, missing: np.ndarray, report: dict) -> None:
    """Raise InputError where more are missing than the stage particles left out as unusable."""
    if missing.sum() > len(report["left_out"]):
        row = int(missing.argmax())
        raise InputError(
            f"{path}: row {row} (from 0): '{names.iloc[row]}' is not among the particles of {report['star']} "
            f"({int(missing.sum())} of {len(missing)} are not)"
        )


def find_selections(
    selections: Sequence[SelectionOptions], store: ImageStore, refinement: Refinement
) -> dict[str, Int[np.ndarray, " row"]]:
    """The rows of every selection by its name; each is said in a line."""
    refuse_repeated(selections)
    found = {each.name: find_selection(each.particles, store, refinement) for each in selections}
    for name, rows in found.items():
        say(f"selection {name}: {len(rows)} of the {len(store)} particles in {store.folder}")
    return found


def write_selections(path: Path, found: dict[str, Int[np.ndarray, " row"]], store: ImageStore) -> None:
    """A table of selection and particle."""
    number = store.particles.particle.numpy()
    parts = [pd.DataFrame({"selection": name, "particle": np.unique(number[rows])}) for name, rows in found.items()]
    write_csv(path, pd.concat([pd.DataFrame({"selection": [], "particle": []}), *parts]))
