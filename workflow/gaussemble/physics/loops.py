"""Loops that numba compiles: once for a machine, where there is a place to keep what it made."""

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """The function compiled, without the interpreter's lock, kept beside the package or in the user's cache.

    Sums may be reordered (`fastmath`), not across threads: results do not depend on their number.
    """
    try:
        return njit(function, fastmath=True, nogil=True, cache=True)
    except RuntimeError:  # no folder to keep it in
        return njit(function, fastmath=True, nogil=True)
