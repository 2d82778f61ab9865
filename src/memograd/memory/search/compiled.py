"""The one door to numba: with it the inner loops of the search are machine code, without it they are plain Python."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)

njit: Any = None
with contextlib.suppress(ImportError):  # the extra memograd[solver] is not installed
    from numba import njit

COMPILED = njit is not None

# Numba keeps machine code by a function's name and its own file, but compiles into it what it calls from other files:
# with their texts in the name nothing old is found after one of them has changed.
_TEXTS = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
_VERSION = hashlib.sha256(_TEXTS).hexdigest()[:12]


def compiled(function: F) -> F:
    """``function`` as machine code, kept on disk between processes; unchanged where numba is missing."""
    if njit is None:
        return function
    function.__qualname__ += f"_{_VERSION}"
    return njit(cache=True, nogil=True)(function)
