"""By what keys of dicts, and members of sets, are found: tensors and ids in them.

A key may be a tensor, a tuple that holds one, or an object that has a hash of its own::

    class Of:
        def __init__(self, tensor): self.tensor = tensor
        def __hash__(self): return id(self.tensor)
        def __eq__(self, other): return self.tensor is other.tensor

Whoever makes another ``Of(x)`` finds what was filled in under the first. What such a key holds counts as a whole: its
hash was worked out when it was put there.
"""

from __future__ import annotations

import collections
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from memograd.tracing.holders import Attributes, dict_of, slots_of

_MOST = 1_000  # objects in one key
_CLOSED = (nn.Module, type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_LISTED = (tuple, list, set, frozenset, collections.deque)


def compares_itself(key: Any) -> bool:
    """Whether another object may be found in the place of ``key``, by what it holds."""
    return type(key).__hash__ is not object.__hash__ and not isinstance(key, _CLOSED)


def held_by(key: Any) -> Iterator[Any]:
    """What is no container and no object of a class in Python among what ``key`` is and holds."""
    waiting, seen = [key], {}
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen[id(value)] = value
        if isinstance(value, (torch.Tensor, weakref.ref)):
            yield value
            continue
        if isinstance(value, _LISTED):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        else:
            yield value
        if (own := dict_of(value)) is not None:
            waiting += own.values()
        waiting += Attributes(value, slots_of(type(value))).contents().values()


def shown(key: Any) -> str:
    """``key`` in a name for messages: nothing of the user's is called for that."""
    if isinstance(key, tuple):
        return f"({', '.join(map(shown, key))})"
    if isinstance(key, (torch.Tensor, *_LISTED, dict)) or type(key).__module__ != "builtins":
        return type(key).__qualname__
    return str(key)
