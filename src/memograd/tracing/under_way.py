"""Captures under way: which ones this thread is inside of, and whose turn it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from memograd.tracing.tracer import Tracer
from memograd.tracing.warned import not_given


class _UnderWay(threading.local):
    """The captures of this thread, outermost first; an inner one makes the outer ones look away."""

    def __init__(self) -> None:
        super().__init__()
        self.tracers: list[Tracer] = []
        self.plain = 0


ACTIVE = _UnderWay()


class _Turn(AbstractContextManager[None]):
    """Programs run one at a time while they are captured: they may write to objects that others read. A program may
    capture another one, and a forked process begins with nobody's turn."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


TURN = _Turn()


def capturing() -> bool:
    """True while this thread captures some program (so that this call happens inside it)."""
    return any(not tracer.paused for tracer in ACTIVE.tracers)


def needs_values() -> bool:
    """True inside a capture that runs on values: captures inside it may do so too."""
    return any(not tracer.paused and tracer.concrete for tracer in ACTIVE.tracers)


@contextmanager
def plainly() -> Iterator[None]:
    """Inside, in this thread, models run as PyTorch runs them, wrapped or not: what we compute is to be compared with
    it."""
    ACTIVE.plain += 1
    try:
        with not_given():
            yield
    finally:
        ACTIVE.plain -= 1


@contextmanager
def looking_away() -> Iterator[None]:
    """Captures under way do not record what happens inside (the making of an inner graph)."""
    with ExitStack() as stack:
        for outer in ACTIVE.tracers:
            stack.enter_context(outer.pause())
        yield
