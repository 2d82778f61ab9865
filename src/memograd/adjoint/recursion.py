"""Backpropagation: the chain rule, applied recursively over the graph, with every result remembered.

    adjoint(loss) = 1
    adjoint(v)    = sum over the consumers u of v:  vjp_u(adjoint(u)) with respect to v

That is the whole algorithm (Goodfellow, Bengio & Courville, Deep Learning, algorithms 6.5 and 6.6: ``build_grad`` and
``grad_table``). ``Recursion.adjoint`` below says it in Python. Two remarks make it practical:

- *Memory.* Each adjoint is needed once for every operand of its node. Remembered in ``table`` it is computed once, and
  the work is proportional to the edges of the graph; forgotten, it is computed once for every path, and their number
  doubles with every diamond. ``memoize=False`` does exactly that, to be looked at on small graphs.
- *Order.* With the nodes visited from the loss backwards, every recursive call finds its answer in the table already,
  so a graph of 100,000 operators in a row needs no deep Python stack.

The rules run on symbolic tensors, so what the recursion computes is again a graph.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx

from memograd.adjoint.activity import active_nodes
from memograd.adjoint.products import count_products
from memograd.adjoint.selection import inputs_of, targets_of
from memograd.errors import (
    MemogradError,
    MissingRuleError,
    NotDifferentiableError,
    ProductLimitError,
    RuleError,
)
from memograd.graph.entries import Input, Output, OutputKind
from memograd.graph.graph import Graph
from memograd.rules.registry import Entry, Refused, lookup, pull_back
from memograd.tracing.functions import Call
from memograd.tracing.tracer import Tracer


class Recursion:
    """The chain rule on one graph: ``adjoint(v)`` is the derivative of the seeded results with respect to ``v``."""

    def __init__(self, tracer: Tracer, seeds: dict[fx.Node, torch.Tensor], active: set[fx.Node], memoize: bool) -> None:
        self.tracer = tracer
        self.seeds = seeds  # adjoints of the results: 1 for a loss
        self.active = active  # nodes on a path from an input of interest to a result
        self.memoize = memoize
        self.table: dict[fx.Node, Any] = {}  # v -> adjoint(v)
        self.pulled: dict[fx.Node, dict[fx.Node, list[Any]]] = {}  # u -> {v: contributions of u to adjoint(v)}

    def adjoint(self, v: fx.Node) -> Any:
        """adjoint(v) = sum over the consumers u of v: vjp_u(adjoint(u)) with respect to v."""
        if v in self.table:
            return self.table[v]
        contributions = [self.seeds[v]] if v in self.seeds else []
        for u in reversed(list(v.users)):  # the last consumer's share is computed first; rules add consumers meanwhile
            if u in self.active:
                contributions += self.vjp(u).get(v, [])
        total = self.add(v, contributions)
        if self.memoize:
            self.table[v] = total
        return total

    def vjp(self, u: fx.Node) -> dict[fx.Node, list[Any]]:
        """What ``u`` passes back to each of its operands, given adjoint(u)."""
        if u in self.pulled:
            return self.pulled[u]
        adjoint = self.adjoint(u)
        contributions = self.apply_rule(u, adjoint) if adjoint is not None else {}
        if self.memoize:
            self.pulled[u] = contributions
        return contributions

    def add(self, v: fx.Node, contributions: list[Any]) -> Any:
        """Sum of the contributions; for a node with several outputs, a list with one sum for each."""
        if isinstance(v.meta["val"], torch.Tensor):
            with self.tracer.about(v):
                return sum_of([c for c in contributions if c is not None])
        parts: list[Any] = [None] * len(v.meta["val"])
        for index, part in contributions:
            parts[index] = part if parts[index] is None else parts[index] + part
        return parts if any(p is not None for p in parts) else None

    def apply_rule(self, u: fx.Node, adjoint: Any) -> dict[fx.Node, list[Any]]:
        """The table's rule for the operator of ``u``, on symbolic tensors."""
        operands: Any = u.args
        if u.target is operator.getitem:  # one output of a node with several
            source, index = operands
            return {source: [(index, adjoint)]}
        entry = entry_of(u)
        if isinstance(u.target, Call):
            entry = u.target.entry_for([v in self.active for v in operands[0]])
        args, kwargs = fx.map_arg((u.args, u.kwargs), self.tracer.input)
        y = fx.map_arg(u, self.tracer.input) if isinstance(u.meta["val"], torch.Tensor) else self.outputs(u)
        with self.tracer.about(u):
            try:
                parts = pull_back(entry, adjoint, y, args, kwargs)
            except MemogradError:
                raise
            except Exception as error:
                message = f"the rule of {_at(u)} ({entry.file}) raised {type(error).__name__}: {error}"
                raise RuleError(message) from error
        contributions: dict[fx.Node, list[Any]] = {}
        for argument, part in zip(operands, parts, strict=True):
            pairs = zip(argument, part, strict=True) if isinstance(part, list) else [(argument, part)]
            for v, share in pairs:
                if share is not None and v in self.active:
                    contributions.setdefault(v, []).append(known(u, share))
        return contributions

    def outputs(self, u: fx.Node) -> tuple[Any, ...]:
        """The results of a node with several outputs, for its rule to use."""
        with self.tracer.about(u):
            return tuple(
                self.tracer.item(u, i) if isinstance(v, torch.Tensor) else None for i, v in enumerate(u.meta["val"])
            )


def differentiate(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    memoize: bool = True,
    of: str | None = None,
    cotangents: OutputKind | None = None,
    among: Collection[str] | None = None,
    limit: int = 100_000,
) -> Graph:
    """The graph that computes ``graph``'s results and the gradients of its loss.

    Args:
        wrt: names of inputs (parameters, arguments); default: all parameters that require gradients, else all
            floating-point arguments.
        memoize: remember adjoints. False runs the naive recursion, once for every path.
        of: name of the result to differentiate; default the first, which must be a scalar (a loss).
        cotangents: instead of 1 for a scalar loss, take the adjoints of all results of this kind as further
            arguments.
        among: those of them with these names only.
        limit: most products the naive recursion may form.

    Returns:
        A graph with outputs of kind ``gradient``; ``graph.unused`` names the inputs the loss does not depend on.

    Raises:
        GraphError: the loss is not a scalar, or a name is unknown.
        MissingRuleError, NotDifferentiableError, OpaqueBackwardError: no derivative is known on the path.
        ProductLimitError: the naive recursion would exceed ``limit``.
    """
    names = inputs_of(graph, wrt)
    if not memoize and (naive := count_products(graph, names, of, cotangents, among).naive) > limit:
        raise ProductLimitError(
            f"the naive recursion would form {naive} products, more than limit={limit}; use memoize=True"
        )
    fresh, where = graph.copy()
    sources = {name: where[graph.placeholder(name)] for name in names}
    results = [where[n] for n in graph.results]
    targets = targets_of(graph, of, cotangents, among)
    inputs = list(graph.inputs)
    tracer = Tracer(fresh)
    tracer.adopt = lambda tensor: _constant(tracer, inputs, tensor)
    with tracer.rules():
        seeds: dict[fx.Node, Any] = {}
        for i in targets:
            seed = (
                _cotangent(tracer, inputs, graph.outputs[i].name, results[i])
                if cotangents
                else _one(tracer, results[i])
            )
            seeds[results[i]] = seed if results[i] not in seeds else seeds[results[i]] + seed
        order = active_nodes(list(sources.values()), [results[i] for i in targets])
        recursion = Recursion(tracer, seeds, set(order), memoize)
        if memoize:
            for v in reversed(order):
                recursion.adjoint(v)
        gradients = {name: recursion.adjoint(node) for name, node in sources.items() if node in recursion.active}
        nodes = {name: tracer.node_of(g) for name, g in gradients.items() if g is not None}
    fresh.output(tuple([*results, *nodes.values()]))
    outputs = (*graph.outputs, *(Output("gradient", name) for name in nodes))
    new = graph.with_fx(fresh, inputs=tuple(inputs), outputs=outputs, wrt=tuple(names))
    return new.verify()


def entry_of(u: fx.Node) -> Entry:
    """The table's line for the operator of ``u``; an error where there is none, or one that refuses."""
    entry = lookup(u.target)
    if entry is None:
        raise MissingRuleError(_missing(u))
    if entry.kind == "refused":
        raise NotDifferentiableError(f"{_at(u)} cannot be differentiated: {entry.formula}")
    return entry


def known(u: fx.Node, share: Any) -> Any:
    """What the rule of ``u`` passes back to an operand; an error where it says that it cannot."""
    if isinstance(share, Refused):
        raise NotDifferentiableError(f"{_at(u)} cannot be differentiated: {share.why}")
    return share


def sum_of(tensors: list[torch.Tensor]) -> Any:
    """Left-to-right sum; None for no summand."""
    total = None
    for tensor in tensors:
        total = tensor if total is None else total + tensor
    return total


def _one(tracer: Tracer, result: fx.Node) -> torch.Tensor:
    with tracer.about(result):
        return torch.ones_like(tracer.input(result))


def _cotangent(tracer: Tracer, inputs: list[Input], name: str, result: fx.Node) -> torch.Tensor:
    """A further input for the adjoint of ``result``: contiguous, whatever the strides of the result itself."""
    inputs.append(Input("cotangent", f"cotangent of {name}", of=name))
    value = result.meta["val"]
    with tracer.pause():
        like = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return tracer.placeholder(f"cotangent_{name}", like)


def _constant(tracer: Tracer, inputs: list[Input], tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the user's that somebody's own backward reads: perhaps an input already, or one more."""
    for entry, node in zip(inputs, tracer.graph.find_nodes(op="placeholder"), strict=True):
        if entry.tensor is tensor:
            return tracer.input(node)
    names = {i.name for i in inputs}
    name = next(name for k in itertools.count() if (name := f"constant_{k}") not in names)
    inputs.append(Input("constant", name, tensor))
    return tracer.placeholder(name, tensor)


def _at(u: fx.Node) -> str:
    module = f" in module '{u.meta['module']}'" if u.meta.get("module") else ""
    return f"{u.target}{module} at {u.meta.get('source', 'unknown source line')} ({u.meta.get('line', '')})"


def _missing(u: fx.Node) -> str:
    return (
        f"no rule for {_at(u)}. Register one: @memograd.rule({_torch_name(u.target)}) def op(adjoint, y, *args, "
        "**kwargs): return one adjoint per argument, None for no contribution"
    )


def _torch_name(target: Any) -> str:
    return f"torch.ops.{target}" if isinstance(target, torch._ops.OpOverload) else str(target)
