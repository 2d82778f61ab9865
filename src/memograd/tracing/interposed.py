"""Functions of PyTorch's own in front of which one of ours stands, for as long as somebody in the process traces.

What goes past the dispatcher can only be seen where it is called: an ``autograd.Function`` is applied, a hook is put on
a node of autograd's graph. ``Function.apply`` itself is of no use, since programs hold on to it (``f = MyFn.apply``);
what it calls in turn, they do not. Ours ask whether their own thread traces, and otherwise step aside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from memograd._torch import dispatch_modes
from memograd.tracing.tracer import Tracer

_LOCK = threading.Lock()
_ABSENT = object()


def current() -> Tracer | None:
    """The tracer that records what this thread calls, if any."""
    return next((m for m in reversed(dispatch_modes()) if isinstance(m, Tracer) and not m.paused), None)


class Interposed:
    """``owner.name`` is ``function`` while somebody has entered this; several threads may."""

    def __init__(self, owner: Any, name: str, function: Any) -> None:
        self.owner, self.name, self.function = owner, name, function
        self.before = vars(owner).get(name, _ABSENT)
        self.users = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _LOCK:
            self.users += 1
            if self.users == 1:
                setattr(self.owner, self.name, self.function)
        try:
            yield
        finally:
            with _LOCK:
                self.users -= 1
                if not self.users:
                    if self.before is _ABSENT:
                        delattr(self.owner, self.name)
                    else:
                        setattr(self.owner, self.name, self.before)


@contextmanager
def together(*interposed: Interposed) -> Iterator[None]:
    """All of them at once."""
    with ExitStack() as stack:
        for one in interposed:
            stack.enter_context(one())
        yield
