"""Tables with a row a particle in a temporary file, so that memory does not grow with the number of particles.

Rows are read and written by plain reads and writes, not by a memory map: mapped pages count as the process's memory,
and on a cold disk each would be a small read of its own. The system keeps in its cache what memory is to spare for. The
file has no name once it is open, so the system removes it however the process ends.

Where it lies: on the node's own disk, which a queue names in SLURM_TMPDIR or TMPDIR; where that is no disk but memory,
or has no room, in the working directory.
"""

import itertools
import math
import os
import re
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.fit.distributed import barrier, from_first, is_first
from gaussemble.io.files import reserve

READ_THROUGH = 128 << 10  # bytes between two wanted rows that are read, as that is quicker than another read
PIECE = 4 << 20  # bytes of one read: a spinning disk takes as long to find them as to read them


@dataclass(frozen=True, eq=False)
class Table:
    """`count` rows of one shape and dtype in a file; all zero at first."""

    handle: int
    count: int
    shape: tuple[int, ...]  # of a row
    dtype: np.dtype

    def __len__(self) -> int:
        return self.count

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def write(self, first: int, values: Shaped[Tensor, "row ..."]) -> None:
        """Put rows from row `first` on."""
        if not self.row_bytes:
            return
        data = np.ascontiguousarray(values.cpu().numpy(), self.dtype).data.cast("B")
        start = first * self.row_bytes
        while len(data):
            done = os.pwrite(self.handle, data, start)
            data, start = data[done:], start + done

    def read(self, rows: Int[Tensor, " row"]) -> Shaped[Tensor, "row ..."]:
        """Some rows, in their order; the file is read from its start to its end, in few and large pieces."""
        found = np.empty((len(rows), *self.shape), self.dtype)
        if not self.row_bytes:
            return torch.from_numpy(found)
        wanted = rows.numpy()
        order = np.argsort(wanted, kind="stable")
        for places in self._pieces(wanted[order]):
            chosen = wanted[order[places]]
            first, last = int(chosen[0]), int(chosen[-1])
            if len(chosen) == len(rows) == last - first + 1 and (order[:-1] < order[1:]).all():
                self._read_into(found, first)  # a run of rows as they lie
            else:
                piece = np.empty((last - first + 1, *self.shape), self.dtype)
                self._read_into(piece, first)
                found[order[places]] = piece[chosen - first]
        return torch.from_numpy(found)

    def _pieces(self, ascending: Int[np.ndarray, " row"]) -> list[slice]:
        """Cut sorted rows where the next one is far, or the piece large enough."""
        if not len(ascending):
            return []
        far = np.diff(ascending) > 1 + READ_THROUGH // self.row_bytes
        full = np.diff(ascending // max(1, PIECE // self.row_bytes)) > 0
        bounds = [0, *(np.flatnonzero(far | full) + 1).tolist(), len(ascending)]
        return [slice(start, end) for start, end in itertools.pairwise(bounds)]

    def _read_into(self, values: np.ndarray, first: int) -> None:
        """Fill contiguous rows from row `first` on."""
        data, start = values.data.cast("B"), first * self.row_bytes
        while len(data):
            done = os.preadv(self.handle, [data], start)
            if done == 0:
                raise InputError(f"{tempfile.gettempdir()}: a temporary file of ours was cut short; start again")
            data, start = data[done:], start + done


def make_table(count: int, shape: tuple[int, ...], dtype: type) -> Table:
    """A new table; processes that work together share it.

    Raises:
        InputError: the disk has no room for it, or a process on another machine cannot see it.
    """
    number = np.dtype(dtype)
    size = count * math.prod(shape) * number.itemsize
    path = Path(from_first(_make_file(size) if is_first() else ""))
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); processes on several machines need a folder in the "
            "environment variable TMPDIR that all of them see"
        ) from error
    barrier()
    if is_first():
        path.unlink()
    table = Table(handle, count, shape, number)
    weakref.finalize(table, os.close, handle)
    return table


def _make_file(size: int) -> str:
    """The path of a new file of zeros whose room on the disk is taken, in the first folder that will do."""
    refused: list[str] = []
    for folder in folders():
        try:
            return _reserved(folder, size)
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
        except InputError:
            refused.append(f"{folder}: no room")
    raise InputError(
        f"{size / 1e9:.2g} GB of temporary data have no place ({'; '.join(refused)}); set the environment variable "
        "TMPDIR to a folder on a disk with more room, or choose a coarser resolution"
    )


def _reserved(folder: Path, size: int) -> str:
    """The path of such a file in one folder; leaves none where there is no room."""
    handle, name = tempfile.mkstemp(prefix="gaussemble-", dir=folder)
    try:
        os.truncate(handle, size)
        if size:
            reserve(Path(name))
    except (OSError, InputError):
        Path(name).unlink()
        raise
    finally:
        os.close(handle)
    return name


def folders() -> list[Path]:
    """Where temporary files may lie, the best first; folders in memory last, for what lies there counts as memory."""
    named = [os.environ.get("SLURM_TMPDIR"), tempfile.gettempdir(), "."]
    found = list(dict.fromkeys(Path(each).absolute() for each in named if each))
    return sorted(found, key=in_memory)


def in_memory(folder: Path) -> bool:
    """Whether a folder, or what it is a link to, is of a file system in memory."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return False
    words = [line.split() for line in mounts.read_text().splitlines()]
    kinds = {_unescaped(place): kind for _, place, kind, *_ in words}
    real = folder.resolve()
    place = next((each for each in (real, *real.parents) if str(each) in kinds), None)
    return place is not None and kinds[str(place)] in ("tmpfs", "ramfs")


def _unescaped(place: str) -> str:
    """A path as /proc/mounts writes it, where a space is its octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
