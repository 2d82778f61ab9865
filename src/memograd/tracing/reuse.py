"""When may a graph be used again? When everything capture looked at is as it was."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd import autocast
from memograd._torch import pytree
from memograd.errors import CaptureError, DataDependentError
from memograd.tracing.capture import capturing, needs_values
from memograd.tracing.closures import captured

_MISSING = object()
_ENTERING = threading.Lock()
SIMPLE = (int, float, complex, bool, str, bytes, type(None))


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Structure, geometry and baked values of the arguments, and the ambient modes an operator may ask for."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return (spec, tuple(_leaf(x) for x in leaves), *ambient())


def ambient() -> tuple[Any, ...]:
    """Autocast, default dtype and grad mode: they decide which operators run."""
    return (autocast.state(), torch.get_default_dtype(), torch.is_grad_enabled())


def surroundings(f: Any) -> tuple[Any, ...]:
    """What ``f`` closes over: identity of tensors and objects, values of numbers, train or eval of modules."""
    found: list[Any] = []
    for name, value in [("", f), *captured(f)]:
        if isinstance(value, nn.Module):
            found.append((name, id(value), *(_module(m) for m in value.modules())))
        elif isinstance(value, SIMPLE):
            found.append((name, value))
        else:
            found.append((name, id(value)))
    return tuple(found)


def _module(module: nn.Module) -> tuple[Any, ...]:
    """What a module's forward may branch on: mode, which parameters it holds and whether they are trained, and its
    plain attributes (a dropout's p)."""
    parameters = tuple((id(p), p.requires_grad) for p in module._parameters.values() if p is not None)
    plain = tuple((k, v) for k, v in vars(module).items() if isinstance(v, SIMPLE))
    return (id(module), parameters, plain)


def _leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise CaptureError(f"an argument of layout {value.layout} cannot be captured; pass x.to_dense()")
        return (value.shape, value.stride(), value.storage_offset() != 0, value.dtype, value.device)
    return (type(value), value) if isinstance(value, SIMPLE) else (type(value), id(value))


class Recent(dict[Any, Any]):
    """A dict that forgets what was least recently entered. Programs that change a number of their own at each call
    (``self.calls += 1``) are captured at each call; what is made for them must not pile up."""

    LIMIT = 256

    def __setitem__(self, key: Any, value: Any) -> None:
        with _ENTERING:
            self.pop(key, None)
            super().__setitem__(key, value)
            if len(self) > self.LIMIT:
                del self[next(iter(self))]


class Cache:
    """Graphs by signature. Inside another capture nothing is kept: the function may see that capture's values.

    A graph that depends on values serves one call and is not kept; that it does is.
    """

    def __init__(self, f: Any, kept: Recent | None = None) -> None:
        self.f = f
        self._kept = Recent() if kept is None else kept

    def get(self, args: tuple[Any, ...], kwargs: dict[str, Any], build: Callable[[bool], Any]) -> Any:
        """What ``build`` makes, perhaps from an earlier call; its argument: on the values of this call?"""
        if capturing():
            return build(needs_values())
        key = (signature(args, kwargs), surroundings(self.f))
        made = self._kept.get(key, _MISSING)
        if made is _MISSING:
            drawn = random.getstate()
            try:
                made = build(False)
            except DataDependentError:
                made = None
                random.setstate(drawn)
            self._kept[key] = made
        return build(True) if made is None else made
