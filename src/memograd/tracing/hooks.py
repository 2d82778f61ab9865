"""Hooks on gradients, called with symbolic ones: what does a hook make of them?

A hook may also only look at a gradient (to log its norm, to keep it), or leave something behind besides what it
returns. No trace shows that: such a hook is called when the graph runs, like one that looks at values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.hooks import BackwardHook

from memograd._torch import pytree
from memograd.errors import CaptureError
from memograd.tracing.backward import UntracedError
from memograd.tracing.guards import taken_twice
from memograd.tracing.interposed import current
from memograd.tracing.reads import Reads
from memograd.tracing.undisturbed import undone

_CALLED: WeakSet[BackwardHook] = WeakSet()  # whose hook behind the module is called when a graph runs


def name_of(hook: Any) -> str:
    return f"the hook {getattr(hook, '__qualname__', type(hook).__name__)}"


def looks_on(hook: Callable[..., Any], gradient: torch.Tensor) -> bool:
    """Whether a hook on a tensor does more, or less, than make another gradient of one; it gets one without data."""
    reads, version = Reads([("", hook)]), gradient._version
    if reads.states.unknown:  # an iterator, from which it takes, or a clock: no run of it can be taken back
        return True
    try:
        with undone(reads, alone=True) as left:
            new = hook(gradient)
            moved = reads.states.moved()
    except Exception:  # it looks at values, or cannot be called: that is seen when a gradient comes
        return False
    if taken := reads.states.taken:
        raise CaptureError(taken_twice(taken[0]))
    return bool(left or moved) or (new is None and gradient._version == version)


def through(hook: Callable[..., Any], gradients: tuple[Any, ...], *more: Any) -> tuple[Any, ...]:
    """What a hook on a node of autograd's graph makes of gradients.

    Raises:
        UntracedError: it is traced, and makes nothing of them.
    """
    own = _of_modules(hook)
    if own in _CALLED and current() is not None and not _is_behind_the_module(hook):
        raise UntracedError("is called where the hook behind the module is called")
    call = _insisting(hook) if own is None else hook
    with _insisted(own):
        new = call(gradients, *more)
    if new is None:
        return gradients
    new = new if isinstance(new, tuple) else (new,)
    if len(new) != len(gradients):
        raise RuntimeError(f"{name_of(hook)} returned {len(new)} gradients, it was given {len(gradients)}")
    return new


def _insisting(hook: Callable[..., Any]) -> Callable[..., Any]:
    """``hook``, which must change something."""

    def called(*args: Any) -> Any:
        tracer = current()
        if tracer is None:  # it is called when a graph runs
            return hook(*args)
        tensors = [t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
        before = [tracer.node_of(t) for t in tensors]
        reads = Reads([("", hook)])
        if reads.states.unknown:
            raise UntracedError("asks for something that no two runs find the same")
        with undone(reads) as left:
            new = hook(*args)
            moved = reads.states.moved()
        if left or moved:
            raise UntracedError("leaves something behind")
        if new is None and before == [tracer.node_of(t) for t in tensors]:
            raise UntracedError("makes nothing of a gradient")
        return new

    return called


def called_by(hook: Any) -> list[Any]:
    """What PyTorch calls where it calls ``hook``, a hook on a node of autograd's graph: of modules the user's own."""
    own = _of_modules(hook)
    return [hook] if own is None else [*(own.user_hooks or ()), *(own.user_pre_hooks or ()), own.module]


def called_at_run_time(hook: Any) -> BackwardHook | None:
    """A hook is not traced. PyTorch's own hook behind a module leaves gradients in an object for the one in front,
    which gives them to the user's: this object, where the one behind is traced, so that gradients of the trace lie
    there."""
    own = _of_modules(hook)
    if own is not None and _is_behind_the_module(hook):
        _CALLED.add(own)
        own.grad_outputs = None  # those of the trace
    return None if own is None or own in _CALLED else own


def _is_behind_the_module(hook: Any) -> bool:
    return "setup_output_hook" in hook.__qualname__


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
    own.user_hooks, own.user_pre_hooks = ([_insisting(h) for h in hooks or ()] for hooks in before)
    try:
        yield
    finally:
        own.user_hooks, own.user_pre_hooks = before
