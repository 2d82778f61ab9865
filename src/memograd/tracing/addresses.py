"""Where a tensor lies in memory, which a program may ask and a graph cannot know: refused by name.

A capture runs on tensors that have no memory (they all lie at 0), or on copies; what is computed of such a number would
be a constant of the graph. Two tensors at one address would be the same to a program that compares them so.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from memograd.errors import CaptureError
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.provenance import caller

ADDRESSES = {torch.Tensor.data_ptr: "data_ptr", torch.Tensor.is_set_to: "is_set_to"}

_OF_A_STORAGE = torch.UntypedStorage.data_ptr


def refuse_address(name: str) -> None:
    """Raises CaptureError: the program asks where a tensor lies, by ``name``."""
    source, line = caller()
    raise CaptureError(
        f"{source} ({line}) asks where a tensor lies in memory ({name}), which differs from run to run: a graph would "
        "be right for one. To tell whether two names stand for one tensor, compare them with `is`"
    )


def _address(storage: torch.UntypedStorage) -> int:
    if current() is not None and _is_asked_by_the_program():
        refuse_address("storage().data_ptr")
    return _OF_A_STORAGE(storage)


def _is_asked_by_the_program() -> bool:
    frame: Any = sys._getframe(2)
    while frame.f_globals.get("__name__") == torch.storage.__name__:
        frame = frame.f_back
    room = frame.f_globals.get("__name__", "").partition(".")[0]
    return room not in ("torch", __name__.partition(".")[0])


STORAGE_ADDRESS = Interposed(torch.UntypedStorage, "data_ptr", _address)
