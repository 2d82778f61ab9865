"""Generators of random numbers: drawing moves them, and who asks for their state is told where they stand."""

from __future__ import annotations

import pickle
import random
import sys
from typing import Any

from memograd._torch import put_state, state_of
from memograd.tracing.kinds.kind import Kind


def is_generator(value: Any) -> bool:
    """A generator of Python's or NumPy's that a program holds itself."""
    if isinstance(value, random.Random):
        return type(value) is not random.SystemRandom
    return type(value).__module__.startswith("numpy.random") and any(
        hasattr(value, name) for name in ("bit_generator", "get_state", "state")
    )


def is_shared(generator: Any) -> bool:
    """Whether it is the one that the functions of ``random`` or ``numpy.random`` draw from."""
    numpy: Any = sys.modules.get("numpy")
    return generator is random.random.__self__ or (numpy is not None and generator is numpy.random.rand.__self__)


def _drawn(generator: Any) -> Any:
    if generator is random or type(generator) is random.Random:
        return generator.getstate()  # numbers in tuples, which nobody can change
    bits: Any = getattr(generator, "bit_generator", generator)
    if hasattr(bits, "state"):
        return pickle.dumps(bits.state)
    return pickle.dumps(generator.getstate() if hasattr(generator, "getstate") else generator.get_state())


def _draw_again(generator: Any, state: Any) -> None:
    bits: Any = getattr(generator, "bit_generator", generator)
    content = pickle.loads(state) if isinstance(state, bytes) else state  # our own bytes
    if hasattr(bits, "state"):
        bits.state = content
    elif hasattr(generator, "setstate"):
        generator.setstate(content)
    else:
        generator.set_state(content)


_ASKED_BY = frozenset({"getstate", "get_state", "__getstate__", "bit_generator", "initial_seed"})
_OF_ITSELF = _ASKED_BY | {"state", "copy", "deepcopy", "dumps", "jumped"}  # names too common to mean the shared ones
SHARED_GENERATOR = Kind(_drawn, _draw_again, guarded=False, asked_by=_ASKED_BY)
GENERATOR = Kind(_drawn, _draw_again, guarded=False, asked_by=_OF_ITSELF)
TORCH_GENERATOR = Kind(state_of, put_state, guarded=False, asked_by=_OF_ITSELF)
