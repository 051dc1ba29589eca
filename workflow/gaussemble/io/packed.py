"""Compressed stacks: unpacked into temporary files that the system removes by itself, and memory-mapped.

Which way a file is compressed is told by its first bytes, not by its name.
"""

import bz2
import gzip
import shutil
import tempfile
import zlib
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from threading import Lock

import numpy as np

from gaussemble.errors import InputError

KEPT = 4  # unpacked stacks that stay on disk: rows are in the order of the stacks, but for a few
MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2"}
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, ValueError)
_ONE_AT_A_TIME = Lock()  # two threads that want the same stack must not both unpack it


def packing_of(start: bytes) -> str | None:
    """How a file that starts with these bytes is compressed; None where it is not."""
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def read_start(path: Path, packing: str, size: int) -> bytes:
    """The first `size` bytes of what a compressed file holds, fewer where it is shorter.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with _opened(path, packing) as file:
            return file.read(size)
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); compress or copy the file again") from error


def unpacked(path: Path, packing: str, size: int) -> np.ndarray:
    """The first `size` bytes of what a compressed file holds, as a read-only memory map.

    Raises:
        InputError: the file is damaged or holds fewer bytes; no room for what it holds.
    """
    with _ONE_AT_A_TIME:
        return _unpacked(path, packing, size, path.stat().st_mtime_ns)


@lru_cache(maxsize=KEPT)
def _unpacked(path: Path, packing: str, size: int, changed: int) -> np.ndarray:
    """`changed`: when the file was, so that another of the same name is not taken for it."""
    with tempfile.TemporaryFile(prefix="gaussemble-") as target:
        try:
            with _opened(path, packing) as source:
                shutil.copyfileobj(_Limited(source, size), target, 1 << 20)  # type: ignore[arg-type]
            target.flush()
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be unpacked ({error}); compress or copy the file again") from error
        except OSError as error:
            raise InputError(
                f"{path}: cannot be unpacked into {tempfile.gettempdir()} ({error.strerror or error}); set TMPDIR to a "
                "folder with room for it, or uncompress the stacks"
            ) from error
        missing = size - target.tell()
        if missing > 0:
            raise InputError(f"{path}: holds {missing} bytes less than its header promises; copy the file again")
        return np.memmap(target, np.uint8, "r", shape=(size,))


class _Limited:
    """A file of which only the first bytes are read, whatever a damaged or hostile one may unpack to."""

    def __init__(self, file: BufferedIOBase, size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int) -> bytes:
        """As files have it."""
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data


def _opened(path: Path, packing: str) -> BufferedIOBase:
    return gzip.open(path, "rb") if packing == "gzip" else bz2.open(path, "rb")  # type: ignore[return-value]
