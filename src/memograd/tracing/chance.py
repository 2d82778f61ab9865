"""Random numbers that no graph draws: Python's and NumPy's, and PyTorch's where a program sets the generator itself.

A program that decides by ``random.random()`` goes another way at each call, so its graph serves one call. Capture runs
the program once, and so moves these generators as far as a plain run does; one that fails leaves them as they were.
"""

from __future__ import annotations

import pickle
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memograd._torch import put_generator
from memograd.errors import CaptureError
from memograd.tracing.provenance import caller
from memograd.tracing.tape import Tape


class Chance:
    """Generators and the states they were in: the two global ones, and others that are ``met``."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, bytes]] = []
        self.meet(random)
        if (numpy := sys.modules.get("numpy")) is not None:
            self.meet(numpy.random)

    def meet(self, generator: Any) -> None:
        self._before.append((generator, _state(generator)))

    @property
    def generators(self) -> list[Any]:
        return [generator for generator, _ in self._before]

    def drawn(self) -> bool:
        """Whether somebody has drawn since."""
        return any(_state(generator) != before for generator, before in self._before)

    def put_back(self) -> None:
        for generator, before in self._before:
            if _state(generator) != before:
                _set(generator, pickle.loads(before))  # our own bytes


def is_generator(value: Any) -> bool:
    """A generator of Python's or NumPy's that a program holds itself."""
    return isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random")


def _state(generator: Any) -> bytes:
    bits: Any = getattr(generator, "bit_generator", None)
    if hasattr(bits, "state"):
        return pickle.dumps(bits.state)
    return pickle.dumps(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _set(generator: Any, state: Any) -> None:
    bits: Any = getattr(generator, "bit_generator", None)
    if hasattr(bits, "state"):
        bits.state = state
    elif hasattr(generator, "setstate"):
        generator.setstate(state)
    else:
        generator.set_state(state)


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
