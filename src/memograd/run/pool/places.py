"""What a backend holds of the pool: ``with places: ...`` around each run of its step."""

from __future__ import annotations

import weakref
from typing import Any

from memograd.run.pool.library import POOL

_FIRST = 2  # the run that is written down: the one before fills caches, and its allocations are not those of the others


class Places:
    """Tensors that are made inside, in this thread, come from memory that is used again.

    The second run is written down and gives each allocation its place; ``extent``: the bytes they need together.
    """

    def __init__(self) -> None:
        self.extent: int | None = None
        self._runs = 0
        self._handle: Any = None
        self._finalizer: Any = None

    def __reduce__(self) -> Any:
        return Places, ()  # a copy is another backend's

    def __enter__(self) -> None:
        library = POOL.look()
        if library is None:
            return
        if self.extent is None:
            self._runs += 1
            if self._runs >= _FIRST:
                self._record(library)
                return
        library.pool_enter(self._handle, 0)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        library = POOL.library
        if library is None:
            return
        extent = library.pool_leave(error is None)
        if extent >= 0:
            self.extent = extent

    def _record(self, library: Any) -> None:
        if self._handle is None:
            self._handle = library.pool_places()
            self._finalizer = weakref.finalize(self, library.pool_forget, self._handle)
            self._finalizer.atexit = False
        library.pool_enter(self._handle, 1)


class Anywhere:
    """The same for what has no places."""

    def __enter__(self) -> None:
        if (library := POOL.library or POOL.look()) is not None:
            library.pool_enter(None, 0)

    def __exit__(self, *_: Any) -> None:
        if (library := POOL.library) is not None:
            library.pool_leave(0)


class Reused(Anywhere):
    """The same for runs whose results live as long as somebody else likes: what is free of it goes back to the system
    with this object."""

    def __init__(self) -> None:
        self._finalizer: Any = None

    def __reduce__(self) -> Any:
        return Reused, ()

    def __enter__(self) -> None:
        if (library := POOL.library or POOL.look()) is None:
            return
        if self._finalizer is None:
            self._finalizer = weakref.finalize(self, library.pool_trim)
            self._finalizer.atexit = False
        library.pool_enter(None, 0)


ANYWHERE = Anywhere()
