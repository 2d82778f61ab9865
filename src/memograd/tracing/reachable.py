"""The tensors that a function or an object can get hold of without being given them.

Searched: containers, attributes of objects, modules, ``functools.partial``, bound methods, and of functions the
variables of enclosing ones, defaults and the globals they name. PyTorch's own functions and objects are not entered,
but for modules, and for the variables of enclosing functions: what Dynamo makes of an ``autograd.Function`` keeps there
what its ``forward`` saves.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from memograd.cautions import caution

_MOST = 1_000_000  # objects looked at: a second or two
_OWN = ("torch", "memograd")
_CLOSED = (type, types.ModuleType, str, bytes, int, float, complex, type(None))


def reachable(*roots: Any) -> list[torch.Tensor]:
    """Every tensor that can be reached from ``roots``, each once; a warning says where these are too many objects."""
    return [value for value in objects(*roots) if isinstance(value, torch.Tensor)]


def objects(*roots: Any) -> list[Any]:
    """The same for objects of any kind."""
    visited: dict[int, Any] = {}  # keeps what it names alive
    waiting: list[Any] = list(roots)
    while waiting and len(visited) < _MOST:
        value = waiting.pop()
        if id(value) in visited or isinstance(value, _CLOSED):
            continue
        visited[id(value)] = value
        if not isinstance(value, torch.Tensor):
            waiting.extend(_held(value))
    if waiting:
        caution(
            f"more than {_MOST} objects can be reached from {', '.join(map(_named, roots))}, which a graph calls or "
            "keeps: a tensor of the program among the others would not be found, and its gradient be missing. Let it "
            "hold less"
        )
    return list(visited.values())


def _named(root: Any) -> str:
    return getattr(root, "__qualname__", None) or f"an object of type {type(root).__qualname__}"


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.BuiltinMethodType):  # ``seen.append``
        return [value.__self__]
    if isinstance(value, types.FunctionType):
        return list(_of_function(value) if _is_users(value.__module__) else enclosing(value))
    if isinstance(value, nn.Module) or _is_users(type(value).__module__):
        return list(getattr(value, "__dict__", {}).values())
    return []


def _is_users(module: str | None) -> bool:
    return module is None or module.partition(".")[0] not in _OWN


def enclosing(function: types.FunctionType) -> Iterator[Any]:
    """What the variables of enclosing functions hold."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    yield from enclosing(function)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
