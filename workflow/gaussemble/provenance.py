"""How a run's results were made: the config after defaults, the versions, the seeds, and checksums of the inputs.

Image stacks are not among the checksummed inputs: they may hold hundreds of gigabytes, and the STAR file names them.
"""

import hashlib
import importlib.metadata
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gaussemble import __version__
from gaussemble.errors import InputError
from gaussemble.io.files import write_json

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "umap-learn",
    "gemmi",
    "mrcfile",
    "starfile",
    "snakemake",
)


def provenance(*, out: Path, config: str, inputs: list[Path] | None = None) -> None:
    """Write provenance.json; `config` is the whole config as JSON text."""
    try:
        values = json.loads(config)
    except ValueError as error:
        raise InputError(f"option config: not JSON ({error}); the workflow gives the whole config") from error
    record = {
        "gaussemble": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "seeds": seeds(values),
        "inputs": [fingerprint(path) for path in inputs or []],
        "config": values,
    }
    write_json(out, record)


def version(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def seeds(values: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """Every seed of a nested config, by the dotted name of its key."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(seeds(value, f"{prefix}{key}."))
        elif key == "seed":
            found[prefix + key] = value
    return found


def fingerprint(path: Path) -> dict[str, Any]:
    """Size, time and SHA-256 of a file. Raises InputError where it is not there."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    return {"path": str(path), "bytes": status.st_size, "modified": modified, "sha256": digest}
