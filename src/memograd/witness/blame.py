"""The first operator at which a graph and PyTorch part.

Three things can be wrong, and each is looked for where it can be seen:

- *a value*: the program runs again with its operators watched, and so does the graph; the first operator with another
  result is to blame;
- *a stop*: the graph's forward half, run with autograd on, gives other gradients than the program; the stop whose
  removal brings them nearest to the program's is to blame;
- *a rule*: for each operator, from the loss backwards, the table's adjoints are compared with autograd's for the
  operator alone, at the values and the adjoint of this run.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import TorchDispatchMode, passed_on, pytree
from memograd.errors import MemogradError
from memograd.graph.graph import Graph
from memograd.graph.interpreter import called, evaluate
from memograd.pipeline import capture_for, differentiate
from memograd.rules.registry import lookup
from memograd.tracing.provenance import caller
from memograd.witness.agreement import FLOAT64, Results, difference, or_zeros
from memograd.witness.widened import whole, wide

Tensor = torch.Tensor
Flat = Callable[..., tuple[Tensor, ...]]
_STOPS = 50  # tried one by one
_WINDOW = 50  # operators of the program that may lie between two of the graph


def place(node: fx.Node) -> str:
    """An operator, its rule, and where the program calls it."""
    entry = lookup(node.target)
    rule = f" (rule at {entry.file})" if entry is not None else ""
    module = f" in module {node.meta['module']!r}" if node.meta.get("module") else ""
    return f"{node.target}{rule}{module} at {node.meta.get('source', '?')} ({node.meta.get('line', '')})"


def smooth(value: Any) -> bool:
    """A tensor of real or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def alone(target: Any, args: Any, kwargs: Any, moving: Callable[[Any], bool] = smooth) -> tuple[Flat, list[Tensor]]:
    """One operator as a function of its smooth arguments, or of those that are ``moving``, which returns its smooth
    results; and these arguments."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(leaves) if moving(x)]
    leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        filled = list(leaves)
        for at, tensor in zip(places, tensors, strict=True):
            filled[at] = tensor
        inner_args, inner_kwargs = pytree.tree_unflatten(filled, spec)
        return tuple(y for y in pytree.tree_leaves(target(*inner_args, **inner_kwargs)) if smooth(y))

    return function, [leaves[i] for i in places]


# -- values ---------------------------------------------------------------------------------------------------------


class Watched(TorchDispatchMode):
    """Remembers every operator that runs: its name, its source line and copies of its results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = passed_on(func, args, kwargs or {})
        results = [x.detach().clone() for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        self.calls.append((_name(func), caller()[0], results))
        return out


def first_other_value(forward: Graph, flat: Sequence[Any], watched: Watched, share: float) -> fx.Node | None:
    """The first operator of ``forward`` with another result than in the program, which was ``watched``."""
    values = run_by_autograd(forward, flat)
    position = 0
    for node in forward.nodes:
        ours = [x for x in pytree.tree_leaves(values[node]) if isinstance(x, Tensor)]
        at = _next(watched.calls, position, _name(node.target), node.meta.get("source"), [x.shape for x in ours])
        if at is None:
            continue  # a write, which the program has in another form
        position = at + 1
        for mine, theirs in zip(ours, watched.calls[at][2], strict=True):
            if difference("", "", mine, theirs, share, 0.0):
                return node
    return None


def _next(
    calls: Sequence[tuple[str, str, list[Tensor]]], start: int, name: str, source: Any, shapes: Any
) -> int | None:
    """The next call of that operator with results of these shapes; rather one from the same line."""
    near = range(start, min(start + _WINDOW, len(calls)))
    alike = [k for k in near if calls[k][0] == name and [x.shape for x in calls[k][2]] == shapes]
    return next((k for k in alike if calls[k][1] == source), alike[0] if alike else None)


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "__name__", str(packet)).rstrip("_")


# -- stops ----------------------------------------------------------------------------------------------------------


def guilty_stop(
    forward: Graph, flat: Sequence[Any], wrt: Sequence[str], theirs: Results, share: float
) -> fx.Node | None:
    """The gradient stop without which the graph's gradients come nearest to the program's; None where the graph,
    differentiated by autograd, has the program's gradients, or no stop matters."""
    stops = [n for n in forward.nodes if n.target is ops.stop][:_STOPS]

    def error(without: Collection[fx.Node]) -> float:
        values = run_by_autograd(forward, flat, wrt, without)
        sources = [values[forward.placeholder(name)] for name in wrt]
        gradients = _gradients(values[forward.results[0]], sources)
        pairs = [(g, theirs.gradients[name]) for g, name in zip(gradients, wrt, strict=True)]
        return sum(float((or_zeros(a, b) - or_zeros(b, a)).abs().max()) for a, b in pairs if _numbers(a, b))

    now = error(())
    if not now > share * theirs.largest:
        return None
    errors = {stop: error((stop,)) for stop in stops}
    best = min(errors, key=errors.__getitem__, default=None)
    return best if best is not None and errors[best] < 0.9 * now else None


def _numbers(a: Tensor | None, b: Tensor | None) -> bool:
    either = a if a is not None else b
    return either is not None and bool(either.numel())


# -- rules ----------------------------------------------------------------------------------------------------------


def first_wrong_rule(forward: Graph, values: Mapping[fx.Node, Any]) -> fx.Node | None:
    """From the loss backwards the first operator whose rule gives other adjoints than autograd, in float64; what cannot
    be computed there, or not differentiated by itself, is passed over. ``values``: of ``run_by_autograd``."""
    outputs = {n: [x for x in pytree.tree_leaves(values[n]) if smooth(x)] for n in forward.nodes}
    taped = [x for xs in outputs.values() for x in xs if x.requires_grad]
    adjoints = dict(zip(map(id, taped), _gradients(values[forward.results[0]], taped), strict=True))
    for node in reversed(forward.nodes):
        given = [adjoints.get(id(x)) for x in outputs[node]]
        if node.target is operator.getitem or node.target in ops.MARKS or all(g is None for g in given):
            continue
        if not isinstance(node.target, torch._ops.OpOverload) or ops.is_random(node):
            continue
        args, kwargs = fx.map_arg((whole(node.target, node.args), node.kwargs), values.__getitem__)
        args, kwargs, given = pytree.tree_map(wide, (args, kwargs, given))
        try:
            if not _same_adjoints(node.target, args, kwargs, given):
                return node
        except (RuntimeError, NotImplementedError):
            continue
    return None


def _same_adjoints(target: Any, args: Any, kwargs: Any, given: list[Tensor | None]) -> bool:
    function, points = alone(target, args, kwargs, lambda x: smooth(x) and x.requires_grad)
    leaves = [p.detach().requires_grad_() for p in points]
    with torch.enable_grad():
        results = function(*leaves)
    taped = [i for i, y in enumerate(results) if y.requires_grad]
    seeds = [or_zeros(given[i], results[i]).detach() for i in taped]
    theirs = torch.autograd.grad([results[i] for i in taped], leaves, seeds, allow_unused=True)
    try:
        ours = _pull(lambda *at: tuple(y for i, y in enumerate(function(*at)) if i in taped), points, seeds)
    except MemogradError:
        return False
    largest = max((float(t.abs().max()) for t in theirs if t is not None and t.numel()), default=0.0)
    pairs = [(or_zeros(a, p), or_zeros(b, p)) for a, b, p in zip(ours, theirs, points, strict=True)]
    share = FLOAT64.loose
    return not any(difference("", "", a, b, share, 1e-3 * share * largest) for a, b in pairs)


def _pull(function: Flat, points: list[Tensor], seeds: list[Tensor]) -> list[Tensor | None]:
    """The adjoints of ``points`` by the derivative table."""
    graph = capture_for(function, tuple(points), {}, concrete=True)
    names = [i.name for i in graph.inputs if i.kind == "input"]
    joint = differentiate(graph, names, cotangents="output")
    results = joint.function(*joint.bind(tuple(points), {}, [s.contiguous() for s in seeds]))
    gradients = {joint.outputs[i].name: results[i] for i in joint.positions("gradient")}
    return [gradients.get(name) for name in names]


# -- the graph's forward half under autograd ----------------------------------------------------------------------


def run_by_autograd(
    forward: Graph, flat: Sequence[Any], wrt: Sequence[str] = (), without: Collection[fx.Node] = ()
) -> dict[fx.Node, Any]:
    """Every value of ``forward``; those that depend on ``wrt`` have autograd's history, which ends at the graph's
    stops but those in ``without``."""
    inputs = [v.detach().requires_grad_(i.name in wrt) for i, v in zip(forward.inputs, flat, strict=True)]
    with torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return evaluate(forward, inputs, lambda node, args, kwargs: _run(node, args, kwargs, node in without))


def _run(node: fx.Node, args: Any, kwargs: Any, flows: bool) -> Any:
    if node.target is ops.stop:
        return args[0].view_as(args[0]) if flows else args[0].detach()
    if node.target is ops.opaque:
        return args[0]
    if node.target is ops.overwrite:
        return _Overwrite.apply(*args)
    return called(node, args, kwargs)


class _Overwrite(torch.autograd.Function):
    """``memograd::overwrite`` for autograd: the value of ``new``, the adjoint to ``old``."""

    @staticmethod
    def forward(ctx: Any, old: Tensor, new: Tensor) -> Tensor:
        return new.clone()

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> Any:
        return adjoints[0], None


def _gradients(loss: Tensor, sources: Sequence[Tensor]) -> list[Tensor | None]:
    if not loss.requires_grad or not sources:
        return [None] * len(sources)
    return list(torch.autograd.grad(loss, list(sources), allow_unused=True, retain_graph=True))
