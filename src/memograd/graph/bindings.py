"""How an operator is written in Python so that calling it costs least.

``torch.mul(x, y)`` and ``torch.ops.aten.mul.Tensor(x, y)`` run the same kernel, but the first one reaches it in about a
microsecond less, which is a third of the time of a small operator. Which function or method of PyTorch stands for an
overload with given arguments is not looked up but watched: it is called once on tensors without data, and taken only
if exactly that overload with exactly those arguments arrives at the dispatcher.

A view that joins dimensions exists only where they lie together in memory, and a kernel's result does not always lie as
PyTorch's shape functions said when the graph was recorded. So it is written as ``x.reshape(...)``: the same view where
there is one, else a copy and not an error in the middle of a step.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any, Literal

import torch
from torch import fx

from memograd._torch import FAKE, TorchDispatchMode, pytree, schema_of
from memograd.ops import is_random

Form = Literal["function", "method"]

_FORMS: dict[Any, Form | None] = {}
_RESHAPES = frozenset(
    {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten.reshape.default}
)


def form_of(node: fx.Node) -> Form | None:
    """``function`` if ``torch.<name>(...)`` is the operator of ``node``, ``method`` if ``x.<name>(...)`` is, else
    None: then only ``torch.ops`` will do."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or is_random(node):
        return None
    if target in _RESHAPES and not node.kwargs:
        return "method"
    key = (target, *map(_kind, node.args), *((name, _kind(v)) for name, v in node.kwargs.items()))
    if key not in _FORMS:
        _FORMS[key] = _watched(node, target)
    form = _FORMS[key]
    return form if form is None or _is_pytorchs(form, name_of(target)) else None


def _is_pytorchs(form: Form, name: str) -> bool:
    """False while somebody has put a function of his own there (``torch.relu = ...``)."""
    if form == "function":
        return isinstance(getattr(torch, name, None), BuiltinFunctionType)
    return isinstance(getattr(torch.Tensor, name, None), MethodDescriptorType)


def name_of(target: Any) -> str:
    """``mul`` of ``aten::mul.Tensor``."""
    if target in _RESHAPES:
        return "reshape"
    return schema_of(target).name.removeprefix("aten::")


def callable_of(node: fx.Node) -> Any:
    """What a call written in that form calls."""
    form, target = form_of(node), node.target
    return target if form is None else getattr(torch if form == "function" else torch.Tensor, name_of(target))


def _watched(node: fx.Node, target: torch._ops.OpOverload) -> Form | None:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    wanted = _arguments(target, args, kwargs)
    name = name_of(target)
    function = getattr(torch, name, None)
    if isinstance(function, BuiltinFunctionType) and _arrives(function, args, kwargs) == wanted:
        return "function"
    method = getattr(torch.Tensor, name, None)
    first = bool(node.args) and isinstance(node.args[0], fx.Node)
    if first and isinstance(method, MethodDescriptorType) and _arrives(method, args, kwargs) == wanted:
        return "method"
    return None


def _arrives(function: Any, args: Any, kwargs: Any) -> Any:
    """The operator, with arguments, that a call makes the dispatcher run; None for several, and where it fails."""
    watch = _Watch()
    try:
        with _warnings_raised(), torch.no_grad(), FAKE, watch:  # PyTorch warns of signatures that it discourages
            function(*args, **kwargs)
    except Exception:  # whatever it dislikes: torch.ops takes the arguments as they are
        return None
    return watch.calls[0] if len(watch.calls) == 1 else None


class _Here:
    """In the place of a warning filter's pattern: matches every message of this thread, as long as it is open."""

    def __init__(self) -> None:
        self.thread: int | None = threading.get_ident()

    def match(self, _text: str) -> bool:
        return threading.get_ident() == self.thread


@contextmanager
def _warnings_raised() -> Iterator[None]:
    """Warnings are errors inside, in this thread: ``catch_warnings`` would make them errors in all others too."""
    here = _Here()
    entry: Any = ("error", here, Warning, None, 0)
    filters: Any = warnings.filters
    filters.insert(0, entry)
    warnings.simplefilter("ignore", _Unused, append=True)  # so that Python forgets what it has warned of already
    try:
        yield
    finally:
        here.thread = None
        if entry in filters:
            filters.remove(entry)


class _Unused(Warning):
    """A category that nobody warns of."""


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim":  # questions about the device
            self.calls.append(_arguments(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _arguments(func: Any, args: Any, kwargs: Any) -> Any:
    """(overload, {argument: value}) without what is left at its default; tensors by identity."""
    arguments = schema_of(func).arguments
    names = [a.name for a in arguments]
    by_name = dict(zip(names, args, strict=False)) | dict(kwargs)
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    comparable = {name: _comparable(value) for name, value in by_name.items()}
    return func, {name: v for name, v in comparable.items() if name not in defaults or v != _comparable(defaults[name])}


def _comparable(value: Any) -> Any:
    leaves = pytree.tree_leaves(list(value) if isinstance(value, tuple) else value)
    return [(type(x), id(x) if isinstance(x, torch.Tensor) else x) for x in leaves]


def _kind(value: Any) -> Any:
    """What the choice of an overload may depend on: of numbers and tensors only that they are some."""
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_kind, value))
    return type(value)


def takes_generator(node: fx.Node) -> bool:
    """True when the operator of an fx node can be told which generator to draw from, and was not."""
    arguments = schema_of(node.target).arguments if is_random(node) else ()
    return any(a.name == "generator" and a.kwarg_only for a in arguments) and "generator" not in node.kwargs
