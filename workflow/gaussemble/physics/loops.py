"""Loops that numba compiles: once for a machine, where there is a place to keep what it made."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from numba import njit

Result = TypeVar("Result")


def compiled(function: Any) -> Any:
    """The function compiled, without the interpreter's lock, kept beside the package or in the user's cache.

    Sums may be reordered (`fastmath`), not across threads: results do not depend on their number.
    """
    try:
        return njit(function, fastmath=True, nogil=True, cache=True)
    except RuntimeError:  # no folder to keep it in
        return njit(function, fastmath=True, nogil=True)


def in_threads(function: Callable[..., Result], tasks: Iterable[tuple]) -> list[Result]:
    """What a function that calls compiled ones returns of each task's arguments, in as many threads as torch has."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return [done.result() for done in [pool.submit(function, *task) for task in tasks]]
