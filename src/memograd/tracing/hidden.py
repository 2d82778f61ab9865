"""Tensors inside of what a program leaves behind and nobody can make anew for each run: closures, iterators, views of
dicts, objects of libraries. A tensor of the capture must not be found there by anybody: it has no numbers."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from memograd.cautions import caution
from memograd.tracing.kinds.holders import inside
from memograd.tracing.names import is_machinery
from memograd.tracing.reachable import enclosing

_MOST = 1_000_000  # objects looked at: a second or two
_CLOSED = (types.ModuleType, str, bytes, int, float, complex, types.CodeType, type(None))


def hidden_tensor(value: Any, sought: Callable[[torch.Tensor], bool], users: Callable[[Any], bool]) -> bool:
    """Whether a tensor that is ``sought`` can be reached from ``value``, past whatever was the user's before."""
    visited: dict[int, Any] = {}  # keeps what it names alive
    waiting = [value]
    while waiting and len(visited) < _MOST:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            if sought(one):
                return True
        elif id(one) not in visited and not isinstance(one, _CLOSED) and not users(one):
            visited[id(one)] = one
            waiting.extend(_parts(one))
    if waiting:
        caution(
            f"a program leaves more than {_MOST} objects behind in one of type {type(value).__qualname__}: whether "
            "there is a tensor of the capture among the others, which has no numbers, was not looked at"
        )
    return False


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, types.FunctionType):
        return [*enclosing(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.BuiltinFunctionType):
        return [value.__self__]
    if isinstance(value, (types.MethodType, functools.partial, dict)):
        return gc.get_referents(value)
    if isinstance(value, type):
        return [] if is_machinery(value.__module__) else list(vars(value).values())
    if isinstance(value, weakref.ref):
        return inside(value)
    if isinstance(value, functools._lru_cache_wrapper):
        return []  # forgets what it has got from a capture
    return _held(value)


def _held(value: Any) -> Iterator[Any]:
    """What Python's garbage collector finds in an object of any other kind."""
    yield from inside(value)
    if type(value).__module__.startswith("torch.") and not isinstance(value, nn.Module):
        return
    yield from (part for part in gc.get_referents(value) if not isinstance(part, type))
