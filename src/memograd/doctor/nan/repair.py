"""A step with a change in it, run again: what is proposed has been tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from memograd._torch import pytree
from memograd.doctor.nan.replay import Step
from memograd.doctor.probes import is_finite, results_of
from memograd.errors import MemogradError
from memograd.graph.graph import Graph
from memograd.graph.interpreter import called
from memograd.graph.reach import ancestors
from memograd.graph.rewriting import Rewriting
from memograd.pipeline import differentiate
from memograd.tracing.tracer import Tracer

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Outcome:
    """What came of a change: whether the loss and all gradients are finite, the loss, and the step with the change."""

    finite: bool
    loss: float | None
    step: Step | None = None

    @property
    def text(self) -> str:
        if not self.finite:
            return "run again with this, the step is still not finite"
        loss = f", its loss {self.loss:.6g}" if self.loss is not None else ""
        return f"run again with this, the step is finite{loss}"


def with_operator(
    step: Step, forward: fx.Node, function: Callable[..., Any], first: tuple[fx.Node, ...] = ()
) -> Outcome | None:
    """The step with ``function`` in the place of an operator of its forward pass, or of a backward that somebody has
    written; None where that cannot be run.

    Args:
        first: nodes that ``function`` is handed besides, as ``function(nodes, *args, **kwargs)``, where there are any.
    """
    if "adjoint_of" in forward.meta:  # an operator of a backward that somebody has written
        return _with_product(step, forward, function) if not first else None
    place = {n.name: n for n in step.forward.nodes}
    node = place.get(forward.name)
    if node is None or node.target is not forward.target:
        return None
    others = tuple(place[n.name] for n in first if n.name in place)
    if len(others) < len(first):
        return None
    try:
        changed = _rewritten(step.forward, node, function, others)
        return _outcome(step, changed)
    except (MemogradError, RuntimeError, TypeError, ValueError, IndexError, AssertionError):
        return None


def _with_product(step: Step, node: fx.Node, function: Callable[..., Any]) -> Outcome | None:
    """The step with ``function`` in the place of an operator of its backward pass."""

    def call(one: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs) if one is node else called(one, args, kwargs)

    try:
        return _judged(step, step.joint, results_of(step.joint, step.flat, call))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None


def with_inputs(step: Step, change: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Outcome:
    """The step on other inputs, by name in the graph."""
    flat = [change[i.name](t) if i.name in change else t for i, t in zip(step.joint.inputs, step.flat, strict=True)]
    return _judged(step, step.joint, results_of(step.joint, flat))


def without_scale(step: Step, scale: float) -> bool:
    """Whether the gradients are finite for cotangents that are smaller by a factor of ``scale``."""
    return with_inputs(step, {i.name: lambda t: t / scale for i in step.joint.inputs if i.kind == "cotangent"}).finite


def in_precision(step: Step, dtype: torch.dtype, instead_of: tuple[torch.dtype, ...] = HALVES) -> Outcome | None:
    """The step in another precision, wherever it runs in one of ``instead_of``."""

    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.dtype in instead_of else value
        if isinstance(value, torch.dtype):
            return dtype if value in instead_of else value
        return type(value)(changed(v) for v in value) if isinstance(value, (tuple, list)) else value

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return called(node, changed(args), {k: changed(v) for k, v in kwargs.items()})

    try:
        return _judged(step, step.joint, results_of(step.joint, [changed(t) for t in step.flat], call))
    except (RuntimeError, TypeError):
        return None


def _rewritten(forward: Graph, node: fx.Node, function: Callable[..., Any], first: tuple[fx.Node, ...]) -> Graph:
    new = Rewriting()
    tracer = Tracer(new.fx)
    before = {other: ancestors([other]) for other in first}

    def visit(new: Rewriting, current: fx.Node) -> Any:
        if current is not node:
            return new.copy(current)
        for other in first:
            new.write([n for n in forward.fx.nodes if n in before[other]])
        with tracer.rules(), tracer.labelled(node.meta):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: tracer.input(new.where[n]))
            others = ([tracer.input(new.where[n]) for n in first],) if first else ()
            out = function(*others, *args, **kwargs)
            if isinstance(out, torch.Tensor):
                return tracer.node_of(out)
            return [tracer.node_of(o) if isinstance(o, torch.Tensor) else None for o in pytree.tree_leaves(out)]

    return forward.rewritten(visit, new=new).verify()


def _outcome(step: Step, forward: Graph) -> Outcome:
    derive = step.differentiate or (lambda graph: differentiate(graph, list(step.joint.wrt)))
    joint = derive(forward)
    bound = {i.name: t for i, t in zip(step.joint.inputs, step.flat, strict=True)}
    flat = [bound.get(i.name, i.bound) for i in joint.inputs]
    changed = replace(step, forward=forward, joint=joint, flat=flat)
    return replace(_judged(changed, joint, results_of(joint, flat)), step=changed)


def _judged(step: Step, joint: Graph, results: list[Any]) -> Outcome:
    losses = [results[k] for k in (step.results if step.outside else joint.positions("output")[:1])]
    looked_at = [*losses, *(results[k] for k in joint.positions("gradient"))]
    loss = None if step.outside or losses[0].numel() != 1 else float(losses[0].reshape(()).real)
    return Outcome(all(map(is_finite, looked_at)), loss)
