"""Hooks on gradients, called with symbolic ones: what does a hook make of them?

A hook may also only look at a gradient (to log its norm, to keep it). A graph runs, and calls nobody while it does, so
that such a hook is refused: one that returns nothing and has not written to what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.hooks import BackwardHook

from memograd.errors import OpaqueBackwardError
from memograd.tracing.backward import source_of
from memograd.tracing.interposed import current


def name_of(hook: Any) -> str:
    return f"the hook {getattr(hook, '__qualname__', type(hook).__name__)}"


def seen_to_change(hook: Callable[..., Any], gradient: torch.Tensor) -> torch.Tensor:
    """What a hook on a tensor makes of its gradient."""
    new = _insisting(hook, [gradient])(gradient)
    return gradient if new is None else new


def through(hook: Callable[..., Any], gradients: tuple[Any, ...], *more: Any) -> tuple[Any, ...]:
    """The same for a hook on a node of autograd's graph."""
    own = _of_modules(hook)
    call = _insisting(hook, [*gradients, *[g for group in more for g in group]]) if own is None else hook
    with _insisted(own):
        new = call(gradients, *more)
    if new is None:
        return gradients
    new = new if isinstance(new, tuple) else (new,)
    if len(new) != len(gradients):
        raise RuntimeError(f"{name_of(hook)} returned {len(new)} gradients, it was given {len(gradients)}")
    return new


def _insisting(hook: Callable[..., Any], gradients: list[Any]) -> Callable[..., Any]:
    """``hook``, which must change something."""

    def called(*args: Any) -> Any:
        tracer = current()
        if tracer is None:  # it is called when a graph runs
            return hook(*args)
        tensors = [g for g in gradients if g is not None]
        before = [tracer.node_of(t) for t in tensors]
        new = hook(*args)
        if new is None and before == [tracer.node_of(t) for t in tensors]:
            raise OpaqueBackwardError(
                f"{name_of(hook)} ({source_of(hook)}) returns nothing: it only looks at a gradient, and a graph calls "
                "nobody while it runs. Remove it, or let it return the gradient"
            )
        return new

    return called


def called_by(hook: Any) -> list[Any]:
    """What PyTorch calls where it calls ``hook``, a hook on a node of autograd's graph: of modules the user's own."""
    own = _of_modules(hook)
    return [hook] if own is None else [*(own.user_hooks or ()), *(own.user_pre_hooks or ()), own.module]


def _of_modules(hook: Any) -> BackwardHook | None:
    """The hooks of a module (``register_full_backward_hook``) that PyTorch calls from this hook of its own."""
    cells = [c.cell_contents for c in getattr(hook, "__closure__", None) or ()]
    return next((c for c in cells if type(c) is BackwardHook), None)


@contextmanager
def _insisted(own: BackwardHook | None) -> Iterator[None]:
    if own is None:
        yield
        return
    before = own.user_hooks, own.user_pre_hooks
    own.user_hooks, own.user_pre_hooks = ([_of_module(h) for h in hooks or ()] for hooks in before)
    try:
        yield
    finally:
        own.user_hooks, own.user_pre_hooks = before


def _of_module(hook: Any) -> Callable[..., Any]:
    def called(module: Any, *gradients: Any) -> Any:
        return _insisting(hook, [g for group in gradients for g in group])(module, *gradients)

    return called
