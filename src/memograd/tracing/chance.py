"""Programs that set the state of PyTorch's random generator themselves are refused: a graph draws from where it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memograd._torch import put_generator
from memograd.errors import CaptureError
from memograd.tracing.provenance import caller
from memograd.tracing.tape import Tape


class _Watched:
    """Stands in ``torch.random`` for PyTorch's generator while a program is captured."""

    def __init__(self, generator: torch.Generator, tape: Tape) -> None:
        self._generator, self._tape, self._thread = generator, tape, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        here = threading.get_ident() == self._thread and not self._tape.paused
        if here and name in ("manual_seed", "seed", "set_state"):
            source, line = caller()
            raise CaptureError(
                f"the program sets the state of PyTorch's random generator at {source} ({line}), which a graph "
                "cannot: draw outside and pass the numbers in, or seed before the call"
            )
        return getattr(self._generator, name)


@contextmanager
def no_seeds(tape: Tape) -> Iterator[None]:
    """Refuse ``torch.manual_seed``, ``fork_rng`` and ``set_rng_state`` in a program: its numbers would be others."""
    before = put_generator(None)
    real = before._generator if isinstance(before, _Watched) else before
    put_generator(_Watched(real, tape))
    try:
        yield
    finally:
        put_generator(before)
