"""Where random numbers come from.

- ``state_of`` / ``put_state``: where a ``torch.Generator`` stands, which is a tensor, is asked while a program is
  captured.
- ``is_default_generator``: C++ hands out several objects for one generator (``_cdata`` tells which).
- ``address_of``: the C++ object of a generator, for C++ of ours.
- ``in_front``: ``torch.manual_seed`` and its like go past every mode to the generator that ``torch.random`` holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memograd._torch.modes import unseen


def state_of(generator: torch.Generator) -> bytes:
    """Where a generator stands, also while a program is captured: the tensor of its state is no business of a trace."""
    with unseen():
        return bytes(generator.get_state().numpy())


def put_state(generator: torch.Generator, state: bytes) -> None:
    """Let ``generator`` draw from there."""
    with unseen():
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def is_default_generator(generator: torch.Generator) -> bool:
    """Whether it is the one that operators draw from which are given none; C++ hands out other objects for the same."""
    defaults = (torch.default_generator, *torch.cuda.default_generators)
    return any(generator._cdata == g._cdata for g in defaults)  # pyright: ignore[reportAttributeAccessIssue]


def address_of(generator: torch.Generator) -> int:
    """Where its C++ object lies (a ``c10::GeneratorImpl``)."""
    return generator._cdata  # pyright: ignore[reportAttributeAccessIssue]


_PUTTING = threading.Lock()


@contextmanager
def in_front(one: Any) -> Iterator[None]:
    """``one`` is inside what the functions of ``torch.random`` set, in front of what that was (``one.below``). Other
    threads may put theirs there meanwhile, and take them away."""
    with _PUTTING:
        one.below = torch.random.default_generator  # pyright: ignore[reportPrivateImportUsage]
        torch.random.default_generator = one  # pyright: ignore
    try:
        yield
    finally:
        with _PUTTING:
            _take_away(one)


def _take_away(one: Any) -> None:
    top: Any = torch.random.default_generator  # pyright: ignore[reportPrivateImportUsage]
    if top is one:
        torch.random.default_generator = one.below  # pyright: ignore
        return
    while top.below is not one:
        top = top.below
    top.below = one.below
