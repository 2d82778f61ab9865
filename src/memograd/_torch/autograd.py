"""Autograd's engine, and custom ``autograd.Function``s as it sees them.

- ``SingleLevelFunction``: where ``Function.apply`` goes on, of every custom ``autograd.Function``; a class's own
  ``apply`` may have been taken before we could put another one in its place.
- ``apply_alone``: what ``Function.apply`` does for a function that ``torch.func`` has no part in, without asking for
  its transforms again (3 µs of a call of 30).
- ``backward_class``: the class of the node that an ``autograd.Function`` puts into autograd's graph; a subclass that is
  made while a program runs needs one of its own.
- ``run_backward``: what ``torch.autograd.grad`` and ``backward`` call, which has a say in what becomes of the graph.
- ``needed_inputs``: which gradients this backward pass was asked for; only the engine knows.
- ``free_saved``: saved tensors let go before the engine would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.autograd.function import _SingleLevelFunction as SingleLevelFunction  # noqa: F401

run_backward = torch.autograd._engine_run_backward  # pyright: ignore[reportPrivateImportUsage]


def apply_alone(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply``, for calls outside of ``torch.func``'s transforms."""
    return super(torch.autograd.Function, function).apply  # pyright: ignore[reportAttributeAccessIssue]


def backward_class(function: Any, other: Any = None) -> Any:
    """The class of the nodes of an ``autograd.Function``, which is ``other`` from now on (None: as it is)."""
    before = function._backward_cls
    if other is not None:
        function._backward_cls = other
    return before


def needed_inputs(node: Any, surely: Collection[int] = ()) -> tuple[int, ...]:
    """Inside the backward of an ``autograd.Function``: which of its arguments that are tensors are to get a gradient;
    or which of those of another ``node`` that will run in this backward pass.

    ``ctx.needs_input_grad`` says which required one at the call; only the engine knows which of them this backward
    pass was asked for (``autograd.grad(y, x)`` leaves the parameters out), and has no public way to say so. Its answer
    for a leaf that is asked for is an exception, half a millisecond of PyTorch's time: ``surely`` are arguments which
    are taken to be asked for.
    """
    edges = [(k, to) for k, (to, _) in enumerate(node.next_functions) if to is not None]
    try:
        return tuple([k for k, to in edges if k in surely or _asked(to)])
    except RuntimeError:  # a leaf that the gradient is asked of
        return tuple([k for k, to in edges if k in surely or _will_run(to)])


_asked = torch._C._will_engine_execute_node


def _will_run(node: Any) -> bool:
    try:
        return _asked(node)
    except RuntimeError:  # a leaf that the gradient is asked of
        return True


def free_saved(ctx: Any) -> None:
    """Inside the backward of an ``autograd.Function``: let go of the saved tensors, unless the graph is retained. (The
    engine does so too, at the end; the public way to read them leaves them alive until then.)"""
    ctx.maybe_clear_saved_tensors()
