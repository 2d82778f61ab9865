"""Decisions by value: a program looked at a number (``.item()``, ``if loss > 1``, ``x[mask]``) and went on accordingly.

Its graph is right for that number only. So each look is an operator of the graph, which compares what it sees when
the graph runs again, before anything is written back. Like random draws it counts although nobody reads its result.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.library import Library

_LIBRARY = Library("memograd", "FRAGMENT")

# ``index``: which look of the program, in order; ``what``: the value of x, or its shape; ``seen``: what it saw.
# The result is empty. Raises DecisionChangedError where looks are compared and this one sees something else.
_LIBRARY.define("look(Tensor x, int index, str what, str seen) -> Tensor")

# ``x``, whose value is about to be read by what does not show it. In no graph: a tracer makes a look of it.
_LIBRARY.define("read(Tensor(a) x) -> Tensor(a)")

_THREAD = threading.local()


class DecisionChangedError(Exception):
    """A value that decided how the program went on is another one now. Never reaches the user.

    Attributes:
        index: which of the program's looks, in order.
        seen: what it sees now.
    """

    def __init__(self, index: int, seen: str) -> None:
        super().__init__(f"look {index} sees {seen}")
        self.index = index
        self.seen = seen


@torch.library.impl(_LIBRARY, "look", "CompositeExplicitAutograd")
def _look(x: torch.Tensor, index: int, what: str, seen: str) -> torch.Tensor:
    if getattr(_THREAD, "comparing", False) and (now := what_is_seen(x, what)) != seen:
        raise DecisionChangedError(index, now)
    return torch.empty(0, dtype=torch.uint8)


@torch.library.register_fake("memograd::look", lib=_LIBRARY)
def _look_without_data(x: torch.Tensor, index: int, what: str, seen: str) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8)


@torch.library.impl(_LIBRARY, "read", "CompositeExplicitAutograd")
def _read(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


look = torch.ops.memograd.look.default
read = torch.ops.memograd.read.default


@contextmanager
def comparing(yes: bool = True) -> Iterator[None]:
    """Looks inside compare what they see, in this thread."""
    before = getattr(_THREAD, "comparing", False)
    _THREAD.comparing = yes
    try:
        yield
    finally:
        _THREAD.comparing = before


def trusting() -> AbstractContextManager[None]:
    """Looks inside compare nothing: they are known to see what they saw, or are not meant to."""
    return comparing(False)


def what_is_seen(x: torch.Tensor, what: str) -> str:
    """The ``shape`` of x, or its ``value``: of one number its text to the last bit, of more a digest."""
    if what == "shape":
        return str(list(x.shape))
    x = x.detach()
    if x.numel() == 1:
        number = x.item()
        return number.hex() if isinstance(number, float) else repr(number)
    x = x.cpu().resolve_conj().resolve_neg().contiguous()
    bits = x.view(-1).view(torch.uint8).numpy().tobytes()
    return f"{list(x.shape)} {hashlib.sha256(bits).hexdigest()}"
