"""What a function closes over: modules and tensors it reads without being given them.

``lambda x: criterion(model(x), y)`` uses ``model``'s parameters. To treat them as constants would be silently wrong,
so capture makes them inputs of the graph. Looked through: closure cells, referenced globals, defaults,
``functools.partial``, bound methods and callable objects.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memograd.tracing.keys import shown


@dataclass(frozen=True)
class Closure:
    """Modules by name, and names of bare tensors by ``id``."""

    modules: dict[str, nn.Module]
    tensors: dict[int, str]


class ClosingOver(nn.Module):
    """A callable and the modules it closes over, as one module, so that parameters can be swapped in it."""

    def __init__(self, function: Callable[..., Any], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    __call__ = forward  # hooks for every module there is are none for this one


def closure_of(function: Callable[..., Any]) -> Closure:
    """The modules and tensors reachable from ``function`` without running it."""
    modules: dict[str, nn.Module] = {}
    tensors: dict[int, str] = {}
    for name, value in captured(function):
        if isinstance(value, nn.Module):
            if not any(value is m for m in modules.values()):
                key = name if name not in modules else f"{name}_{len(modules)}"
                modules[key.replace(".", "_")] = value
        elif isinstance(value, torch.Tensor):
            tensors.setdefault(id(value), name)
    return Closure(_without_children(modules), tensors)


def captured(function: Any, entered: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """(name, value) for everything ``function`` refers to; functions among them are entered."""
    entered = set() if entered is None else entered
    if id(function) in entered:
        return
    entered.add(id(function))
    for name, value in _references(function):
        yield name, value
        if isinstance(value, (list, tuple)):
            yield from ((f"{name}_{i}", v) for i, v in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}_{shown(k)}", v) for k, v in value.items())
        elif _is_program(value):
            yield from captured(value, entered)


def _is_program(value: Any) -> bool:
    if isinstance(value, functools.partial) or _wraps(value):
        return True
    if isinstance(value, types.MethodType):
        value = value.__func__
    if isinstance(value, types.FunctionType):
        return not value.__module__.startswith(("torch", "memograd.")) if value.__module__ else True
    # a callable object of the user's (a transform of ours too: its attributes hold the function it transforms)
    return (
        callable(value)
        and not isinstance(value, (type, nn.Module, types.BuiltinFunctionType))
        and hasattr(value, "__dict__")
    )


def _wraps(value: Any) -> bool:
    try:
        return hasattr(value, "__wrapped__")
    except Exception:  # a ``__getattr__`` of the user's that raises a KeyError
        return False


def _references(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        yield "function", function.func
        yield from ((f"arg{i}", a) for i, a in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, types.MethodType):
        yield "self", function.__self__
        yield "function", function.__func__
    elif isinstance(function, types.FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        yield from _globals_of(function.__code__, function.__globals__)
        yield from ((f"default{i}", v) for i, v in enumerate(function.__defaults__ or ()))
    elif not isinstance(function, (type, nn.Module, types.ModuleType)) and hasattr(function, "__dict__"):
        yield from vars(function).items()
        if "__call__" in vars(type(function)):
            yield "call", vars(type(function))["__call__"]


def _globals_of(code: types.CodeType, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Globals read by a code object or by the functions defined inside it."""
    for name in _global_names(code):
        if name in scope and not isinstance(scope[name], types.ModuleType):
            yield name, scope[name]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant, scope)


@functools.lru_cache(1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Names that the code reads as globals; ``co_names`` has those of attributes, too (``self.model``), which may be
    those of something else at the top of the file."""
    if not code.co_names:
        return ()
    return tuple(
        dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    )


def _without_children(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules that are part of another one in the list are reached through that one."""
    inner = {id(m) for top in modules.values() for m in top.modules() if m is not top}
    return {name: m for name, m in modules.items() if id(m) not in inner}
