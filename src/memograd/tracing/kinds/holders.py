"""What holds other objects, which the program gets hold of as well: context variables, weak references, views."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import types
import weakref
from typing import Any

import torch

from memograd._torch import scripted_state
from memograd.tracing.kinds.kind import Same

VIEWS: Any = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))


def variable(value: contextvars.ContextVar[Any]) -> Same | None:
    try:
        return Same([value.get()])
    except LookupError:  # once it is set, nobody can make that undone
        return None


def set_variable(value: contextvars.ContextVar[Any], state: Same) -> None:
    value.set(state.values[0])


def set_context(value: contextvars.Context, state: Same) -> None:
    for variable, held in zip(state.values[::2], state.values[1::2], strict=True):
        value.run(variable.set, held)


def own_thread(value: threading.local) -> Same:
    return Same([x for pair in value.__dict__.items() for x in pair])


def own_thread_again(value: threading.local, state: Same) -> None:
    value.__dict__.clear()
    value.__dict__.update(zip(state.values[::2], state.values[1::2], strict=True))


def scripted(value: torch.jit.ScriptModule) -> Same:
    return Same(scripted_state(value).values())


def put_scripted(value: torch.jit.ScriptModule, state: Same) -> None:
    for ((holder, name), now), before in zip(scripted_state(value).items(), state.values, strict=True):
        if Same([now]) != Same([before]):
            holder.setattr(name, before)


def inside(value: Any) -> list[Any]:
    """Python objects that such an object holds."""
    if isinstance(value, contextvars.ContextVar):
        return [value.get(None)]
    if isinstance(value, contextvars.Context):
        return list(value.values())
    if isinstance(value, threading.local):
        return list(value.__dict__.values())
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, weakref.ProxyTypes):
        try:
            return [value.__reduce_ex__.__self__]  # pyright: ignore[reportFunctionMemberAccess]
        except ReferenceError:
            return []
    if isinstance(value, VIEWS):
        return gc.get_referents(value)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.hasobject:
        return list(value.flat)
    return []
