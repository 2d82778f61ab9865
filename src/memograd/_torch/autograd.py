"""Autograd's engine, and custom ``autograd.Function``s as it sees them.

- ``SingleLevelFunction``: where ``Function.apply`` goes on, of every custom ``autograd.Function``; a class's own
  ``apply`` may have been taken before we could put another one in its place.
- ``apply_alone``: what ``Function.apply`` does for a function that ``torch.func`` has no part in, without asking for
  its transforms again (3 µs of a call of 30).
- ``backward_class``: the class of the node that an ``autograd.Function`` puts into autograd's graph; a subclass that is
  made while a program runs needs one of its own.
- ``run_backward``: what ``torch.autograd.grad`` and ``backward`` call, which has a say in what becomes of the graph.
- ``nodes_behind``: a tensor's history, whose nodes only autograd knows.
- ``needed_inputs``: which gradients this backward pass was asked for; only the engine knows.
- ``asked_for``: which tensors that are no leaves this backward pass was asked for the gradient of.
- ``current_pass``, ``at_the_end``: which backward pass this is, and what is called behind it.
- ``free_saved``: saved tensors let go before the engine would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
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


def nodes_behind(tensors: Iterable[torch.Tensor]) -> list[Any]:
    """The nodes that ``tensors`` were computed by, each once; those of leaves have a ``variable``."""
    waiting: list[Any] = [t.grad_fn for t in tensors]
    known: dict[Any, None] = {}
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known[node] = None
            waiting += [to for to, _ in node.next_functions]
    return [*known]


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


def current_pass() -> int:
    """Inside a backward: the number of this backward pass; -1 outside of one."""
    return torch._C._current_graph_task_id()


def at_the_end(callback: Callable[[], Any]) -> None:
    """Inside a backward: call this when the backward pass is over."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def asked_for(tensors: Sequence[torch.Tensor], node: Any) -> list[bool]:
    """Inside a backward: which of ``tensors``, which are no leaves, this backward pass was asked for the gradient of
    (``inputs=``).

    The engine does not tell them from those on the way to others. On a CPU it runs in the thread of who has called it,
    so that what it was asked for stands in a frame above. In a thread of a device's there is none: then a pass that
    does not reach ``node``, which made the tensors, or is asked for leaves in front of it, is taken to be asked for
    all of them.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code is _BACKWARD or code is _GRAD:
            inputs = frame.f_locals.get("inputs_tuple", frame.f_locals.get("inputs"))
            if inputs is None or inputs == ():
                break
            edge_of = torch.autograd.graph.get_gradient_edge
            edges = [edge_of(t) if isinstance(t, torch.Tensor) else t for t in _listed(inputs)]
            asked = {(edge.node, edge.output_nr) for edge in edges}
            return [(t.grad_fn, t.output_nr) in asked for t in tensors]
        frame = frame.f_back
    return [frame is None and not _whole(node)] * len(tensors)


_GRAD, _BACKWARD = torch.autograd.grad.__code__, torch.autograd.backward.__code__


def _listed(inputs: Any) -> Sequence[Any]:
    if isinstance(inputs, dict):
        return tuple(inputs.values())
    return (inputs,) if isinstance(inputs, (torch.Tensor, torch.autograd.graph.GradientEdge)) else tuple(inputs)


def _whole(node: Any) -> bool:
    """Whether ``node`` runs in this backward pass and the gradients of leaves in front of it are accumulated there."""
    try:
        return all(torch._C._will_engine_execute_node(n) for n in (node, *(to for to, _ in node.next_functions if to)))
    except RuntimeError:  # a leaf that the gradient is asked of
        return False


def free_saved(ctx: Any) -> None:
    """Inside the backward of an ``autograd.Function``: let go of the saved tensors, unless the graph is retained. (The
    engine does so too, at the end; the public way to read them leaves them alive until then.)"""
    ctx.maybe_clear_saved_tensors()
