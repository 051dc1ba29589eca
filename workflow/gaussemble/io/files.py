"""Writing files so that a killed job leaves no half file."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from gaussemble.errors import InputError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder (same suffix) that is renamed to `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index; 7 significant digits."""
    with written(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g")


def read_csv(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table; raises InputError where the file or one of the columns is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    table = pd.read_csv(path)
    missing = [column for column in columns or [] if column not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    return table


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
