"""Handles of hooks on tensors of the program's own, which it leaves behind or returns (``self.handle = h``).

A graph has such a hook in it. Each run leaves a handle of its own: whoever removes that before the backward pass of the
run means a pass without the hook, which the graph does not have. It is refused there.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from memograd.errors import CaptureError
from memograd.tracing.reachable import objects

Standing = tuple[dict[int, Any], int, str]  # the table that a handle takes its hook out of, its number there, its name


def standing(handle: Any) -> bool:
    """Whether the hook of ``handle`` was not removed."""
    return handle.id in (handle.hooks_dict_ref() or ())


def refuse_held(hook: Any, name: str, handles: Mapping[int, Any]) -> None:
    """Raises CaptureError where ``hook``, which is in a graph, holds one of these ``handles``, by id."""
    if handles and any(id(held) in handles for held in objects(hook)):
        raise CaptureError(
            f"{name} holds the handle of a hook on a tensor of the program's own and may remove it: a graph has one "
            "for all runs. Let it count in an object of yours how often it was called, and return nothing from then on"
        )


def another(handle: RemovableHandle, name: str) -> tuple[RemovableHandle, Standing]:
    """A handle like ``handle``, and what it takes its hook out of."""
    table: collections.OrderedDict[int, Any] = collections.OrderedDict({handle.id: None})
    own = RemovableHandle(table)
    own.id = handle.id
    return own, (table, handle.id, name)


def refuse_removed(hooks: list[Standing], results: Iterable[torch.Tensor]) -> None:
    """Let the backward pass of a run with these ``results`` raise CaptureError where one is not there any more."""
    look = _look(hooks)
    for node in {t.grad_fn for t in results if t.grad_fn is not None}:
        node.register_prehook(look)


def _look(hooks: list[Standing]) -> Callable[[Any], None]:
    def look(_: Any) -> None:
        gone = next((name for table, number, name in hooks if number not in table), None)
        if gone is not None:
            raise CaptureError(
                f"{gone} was removed between the forward pass that registered it and the backward pass, and the graph "
                "calls it there all the same; remove it behind the backward pass, or let the hook itself return "
                "nothing where it is not to count"
            )

    return look
