"""The one door to numba: with it the inner loops of the search are machine code, without it they are plain Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)

njit: Any = None
with contextlib.suppress(ImportError):  # the extra memograd[solver] is not installed
    from numba import njit

COMPILED = njit is not None


def compiled(function: F) -> F:
    """``function`` as machine code, kept on disk between processes; unchanged where numba is missing."""
    return function if njit is None else njit(cache=True, nogil=True)(function)
