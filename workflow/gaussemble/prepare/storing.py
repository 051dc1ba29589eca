"""Images streamed from the stacks into the store: read, prepared and written at the same time, by blocks.

Memory does not depend on how many images there are: a few blocks are on their way at a time.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussemble.errors import InputError
from gaussemble.io.images import ParticleImages
from gaussemble.io.store import ImageWriter
from gaussemble.physics.fourier import fourier_crop
from gaussemble.prepare.pixels import Preparation, Prepared
from gaussemble.progress import progress

BLOCK_BYTES = 2**22  # of float32 images as they are in the stacks: what stays in a processor's cache
MOST_WORKERS = 8
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Stored:
    """What became of the images."""

    rows: Int[np.ndarray, " stored"]  # the rows whose images were usable, in the order in which they are stored
    left_out: list[dict] = field(default_factory=list)  # row, image and reason of the others
    sample: list[Float[Tensor, "image y x"]] = field(default_factory=list)  # some of the stored images, coarsely
    sample_rows: list[int] = field(default_factory=list)
    statistics: list[Float[np.ndarray, "image 2"]] = field(default_factory=list)  # of each stored image, as it came


def store_images(
    images: ParticleImages,
    rows: Int[np.ndarray, " row"],
    prepare: Preparation,
    writer: ImageWriter,
    max_bad: int,
    sample: tuple[int, int],
) -> Stored:
    """Write the images of the rows.

    Args:
        images: on disk.
        rows: those whose images are stored, in this order.
        prepare: what is done to them.
        writer: of the store's images.
        max_bad: how many may be left out.
        sample: how many images, evenly spread, and the box to which they are cropped for `Stored.sample`.

    Raises:
        InputError: more are unusable than may be, or all.
    """
    count, coarse = sample
    chosen = np.zeros(len(rows), bool)
    chosen[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)] = True
    found, kept, done = Stored(rows), [], 0
    for block, (stored, reasons, statistics) in prepared_blocks(images, rows, prepare, "storing images"):
        usable = reasons == ""
        writer.append(stored if usable.all() else stored[torch.from_numpy(usable)])
        kept.append(block[usable])
        found.statistics.append(statistics[usable])
        found.left_out += [
            {"row": row, "image": images.name(row), "reason": reason}
            for row, reason in zip(block[~usable].tolist(), reasons[~usable].tolist(), strict=True)
        ]
        _refuse_too_many(found.left_out, max_bad, len(rows))
        take = usable & chosen[done : done + len(block)]
        if take.any():
            found.sample.append(fourier_crop(stored[torch.from_numpy(take)], coarse))
            found.sample_rows += block[take].tolist()
        done += len(block)
    found.rows = np.concatenate(kept)
    return found


def prepared_blocks(
    images: ParticleImages, rows: Int[np.ndarray, " row"], prepare: Preparation, what: str
) -> Iterator[tuple[np.ndarray, Prepared]]:
    """Rows and their images as they are stored, one block after the other; the next ones are being made."""
    size = max(1, BLOCK_BYTES // (4 * int(images.sizes[rows].max()) ** 2))
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]

    def make(block: np.ndarray) -> tuple[np.ndarray, Prepared]:
        return block, _prepared(images, block, prepare)

    yield from progress(ahead(make, blocks), what, total=len(blocks))


def _prepared(images: ParticleImages, rows: np.ndarray, prepare: Preparation) -> Prepared:
    """Images of any kinds, each kind read and prepared by itself."""
    kind = prepare.grid.kind[rows]
    if (kind == kind[0]).all():
        return prepare(images.read(rows), int(kind[0]))
    order = np.argsort(kind, kind="stable")
    parts = [prepare(images.read(rows[kind == one]), one) for one in np.unique(kind).tolist()]
    back = np.argsort(order)
    return Prepared(
        torch.cat([part.images for part in parts])[torch.from_numpy(back)],
        np.concatenate([part.reasons for part in parts])[back],
        np.concatenate([part.statistics for part in parts])[back],
    )


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` by several threads that are a few items ahead; what they call leaves Python's lock."""
    workers = min(MOST_WORKERS, torch.get_num_threads() + 1)  # one more, as one waits for the disk
    waiting: deque[Future[Result]] = deque()
    with _single_threaded(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Each thread of ours works by itself: torch's own would only wait for each other's processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_too_many(left_out: list[dict], allowed: int, count: int) -> None:
    """Say which is the first."""
    if len(left_out) > allowed or (left_out and len(left_out) == count):
        first = left_out[0]
        raise InputError(
            f"{first['image']} (row {first['row']} from 0): {first['reason']}; {len(left_out)} unusable images so far, "
            f"particles.max_bad allows {allowed}: repair the stack, remove the rows, or allow more"
        )
