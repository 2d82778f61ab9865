"""The inner loops of the search as machine code: C if there is a compiler, else by Numba, else they are plain Python.

``search.c`` says the same as the Python functions of this folder, and takes a fraction of a second to compile on a
machine that has never seen it, where Numba takes up to a minute.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from memograd import c_compiler
from memograd.errors import BackendError

F = TypeVar("F", bound=Callable)
DECORATED: list[Callable[..., Any]] = []  # what Numba would compile

_FOLDER = Path(__file__).parent
# Numba keeps machine code by a function's name and its own file, but compiles into it what it calls from other files:
# with their texts in the name nothing old is found after one of them has changed.
_VERSION = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))).hexdigest()[:12]
_NUMBER, _REAL, _PLACE = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class _Line(ctypes.Structure):
    """``Line`` of the C text."""

    _fields_ = [*((f"array_{i}", _PLACE) for i in range(21)), ("length", _NUMBER), ("copies", _NUMBER)]


class Change(ctypes.Structure):
    """``Change`` of the C text."""

    _fields_ = [*((name, _NUMBER) for name in ("kind", "slot", "added", "removed")), ("extra", _REAL)]


class Library:
    """The functions of ``search.c``, on the arrays of a ``timeline.Timeline``. They do not hold Python's lock."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self.loaded = loaded
        loaded.draw.restype = loaded.make_room.restype = _NUMBER
        loaded.draw.argtypes = [_PLACE, _NUMBER]
        loaded.put.argtypes = [_PLACE, _NUMBER, _NUMBER]
        loaded.take.argtypes = loaded.make_room.argtypes = [_PLACE, _NUMBER]
        loaded.fill.argtypes = [_PLACE, _PLACE, _NUMBER]
        loaded.change.argtypes = [_PLACE, _PLACE, _PLACE, _NUMBER, _REAL, _PLACE]
        loaded.step_back.argtypes = [_PLACE, _PLACE, _NUMBER, _NUMBER, _NUMBER, _NUMBER]
        loaded.anneal.argtypes = [_PLACE, _PLACE, _NUMBER, _REAL, _REAL, _REAL, _PLACE, _PLACE]
        loaded.fit.argtypes = [_PLACE, _PLACE, _NUMBER, _REAL, _REAL, _REAL, _NUMBER]

    def fill(self, line: Any, schedule: np.ndarray) -> None:
        self.loaded.fill(on(line), schedule.ctypes.data, len(schedule))

    def anneal(
        self, line: Any, state: np.ndarray, steps: int, hot: float, cold: float,
        weight: float, cost: float, best: float, best_runs: np.ndarray,
    ) -> tuple[float, float]:  # fmt: skip
        pair = np.array([weight, best], np.float64)
        places = pair.ctypes.data, best_runs.ctypes.data
        self.loaded.anneal(on(line), state.ctypes.data, steps, hot, cold, cost, *places)
        return float(pair[0]), float(pair[1])

    def fit(
        self, line: Any, state: np.ndarray, steps: int, hot: float, cold: float, price: float, reorder: bool
    ) -> None:
        self.loaded.fit(on(line), state.ctypes.data, steps, hot, cold, price, reorder)


def on(line: Sequence[np.ndarray]) -> Any:
    """A timeline as C sees it."""
    assert all(a.flags.c_contiguous for a in line)
    slots: Any = line[-3]
    return ctypes.byref(_Line(*(a.ctypes.data for a in line), len(line[-5]), slots.shape[1]))


@cache
def library() -> Library | None:
    """None where there is no C compiler, or one that fails."""
    try:
        return Library(c_compiler.load((_FOLDER / "search.c").read_text(encoding="utf-8")))
    except (BackendError, OSError):
        return None


njit: Any = None
if library() is None:
    with contextlib.suppress(ImportError):  # the extra memograd[solver] is not installed
        from numba import njit

COMPILED = library() is not None or njit is not None


def compiled(function: F) -> F:
    """``function`` as machine code where Numba has to make it, else as it is: C has a form of its own."""
    DECORATED.append(function)
    return function if njit is None else by_numba(function, njit)


def by_numba(function: F, njit: Any) -> F:
    """``function`` compiled, and kept on disk between processes."""
    function.__qualname__ += f"_{_VERSION}"
    return njit(cache=True, nogil=True)(function)
