"""Files that appear whole or not at all, and tables and archives that are refused where they are damaged."""

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gaussemble.errors import InputError

WAITING: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("WAITING", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Files that are written in the block appear when it ends well, all at once; none of them when it does not."""
    waiting: list[tuple[Path, Path]] = []
    token = WAITING.set(waiting)
    try:
        yield
        for temporary, path in waiting:
            _put(temporary, path)
    finally:
        WAITING.reset(token)
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder (same suffix) that is renamed to `path` when the block ends well.

    Raises:
        InputError: the folder or the file cannot be written, or the disk is full.
    """
    temporary, waiting = _temporary(path), WAITING.get()
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if waiting is None:
            _put(temporary, path)
        else:
            waiting.append((temporary, path))
    except OSError as error:
        if error.filename is not None and Path(error.filename) != temporary:
            raise  # of another file, one that was read
        raise _not_written(path, error) from error
    finally:
        if waiting is None or (temporary, path) not in waiting:
            temporary.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Take the disk space of a file that is written by memory map, which on a full disk would end by a signal."""
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise _not_written(path, error) from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index; 7 significant digits."""
    with written(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g")


def read_csv(path: Path, columns: list[str] | None = None, words: list[str] | None = None) -> pd.DataFrame:
    """Read a table.

    Raises:
        InputError: no such file, no table, no column of these names, no rows or a value that is not a number in
            `columns`; the columns `words` may hold anything.
    """
    _refuse_missing(path)
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are of this kind
        raise InputError(f"{path}: cannot be read as a table ({_first_line(error)}); make it again") from error
    missing = [column for column in [*(columns or []), *(words or [])] if column not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if columns and table.empty:
        raise InputError(f"{path}: no rows under {', '.join(table.columns)}; make it again")
    for column in columns or []:
        number = np.asarray(pd.to_numeric(table[column], errors="coerce"), np.float64)
        wrong = np.isnan(number) & np.asarray(table[column].notna())
        if wrong.any():
            row = int(wrong.argmax())
            found = table[column].iloc[row]
            raise InputError(f"{path}: row {row + 1}: {column} is '{found}', expected a number; make it again")
    return table


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file; raises InputError where it is missing or damaged."""
    _refuse_missing(path)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON ({_first_line(error)}); make it again") from error


def read_npz(path: Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an archive; raises InputError where it is missing or damaged. `what`: what it should be."""
    _refuse_missing(path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no npz archive, or cut off")
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not {what} ({_first_line(error)}); make it again") from error


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")


def _temporary(path: Path) -> Path:
    """A new empty file beside `path`, whose folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    os.close(handle)
    return Path(name)


def _put(temporary: Path, path: Path) -> None:
    """Give a finished file its name."""
    try:
        temporary.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> InputError:
    """What the user reads of a full disk, a missing permission, a file in the place of a folder."""
    return InputError(f"{path}: cannot be written: {error.strerror or error}; make room there, or write elsewhere")


def _first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]
