"""State with a history that a call finds where an earlier one left it: a hidden state on the module, for
backpropagation through time.

PyTorch's own run of a call, beside ours, must end there. Otherwise the gradients of the weights would be those of all
calls so far, and what the earlier ones have saved would be gone. So for that run a leaf stands in its place.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from memograd._torch import copy_of
from memograd.tracing.guards import Guards
from memograd.tracing.holders import dict_of
from memograd.tracing.reads import Place, tensors_in

Tensor = torch.Tensor
_CONTAINERS = (dict, list, collections.deque)


@contextmanager
def as_leaves(bound: Sequence[Tensor], guards: Guards) -> Iterator[dict[int, Tensor] | None]:
    """Leaves in the place of those tensors in ``bound`` that have a history, by their ids; None where some cannot be
    replaced, and then none is."""
    carried = {id(t): t for t in bound if t.requires_grad and not t.is_leaf}
    leaves = {key: copy_of(t.detach()).requires_grad_() for key, t in carried.items()}
    values = guards.values() if carried else []
    there = [(place, id(value)) for place, value in values if id(value) in carried]
    inside = [t for _, value in values if isinstance(value, tuple) for _, t in tensors_in(value) if id(t) in carried]
    tables = [_table(place) for place, _ in there]
    if inside or None in tables or {key for _, key in there} != carried.keys():
        yield None
        return
    try:
        for table, (place, key) in zip(tables, there, strict=True):
            _put(table, place.key, leaves[key])
        yield leaves
    finally:
        for table, (place, key) in zip(tables, there, strict=True):
            _put(table, place.key, carried[key])


def _table(place: Place) -> Any:
    """What holds the value; None where nobody may put another one there."""
    if not place.attribute:
        return place.holder if isinstance(place.holder, _CONTAINERS) else None
    own = dict_of(place.holder) or {}
    buffers = own.get("_buffers", {}) if isinstance(place.holder, nn.Module) else {}
    return next((table for table in (own, buffers) if place.key in table), None)


def _put(table: Any, key: Any, value: Tensor) -> None:
    kind: Any = next(k for k in _CONTAINERS if isinstance(table, k))
    kind.__setitem__(table, key, value)
