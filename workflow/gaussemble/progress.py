"""Progress with rate and remaining time: a bar on a terminal, a plain line every so often in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(message: str) -> None:
    """One line for the user or the log, on standard error."""
    print(message, file=sys.stderr, flush=True)


def progress(items: Iterable[Item], what: str, total: int | None = None, every: float = 10.0) -> Iterator[Item]:
    """Yield the items and show how far they are; `every`: seconds between plain lines where there is no terminal."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, leave=False)
        return
    total = total if total is not None else len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            last, rate = now, done / (now - start)
            left = f" of {total}, {(total - done) / rate:.0f} s left" if total else ""
            say(f"{what}: {done}{left} ({rate:.3g}/s)")
