"""The recursion on a graph, with a record of every question it asks and every answer it gives.

It is the recursion of ``adjoint/recursion.py``, on symbolic tensors as ever: what is new is the protocol, and that the
nodes of all adjoints and of all their summands are remembered, so that whoever runs the graph can show their numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from memograd.adjoint.activity import active_nodes
from memograd.adjoint.products import count_products
from memograd.adjoint.recursion import Recursion, _constant
from memograd.adjoint.selection import targets_of
from memograd.graph.entries import Output
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer

_DEEP = 3_000  # active nodes up to which the recursion may go as deep as the graph
_TREE = 400  # products of which the naive recursion is written down

# What happens, to which node: adjoint(v) is asked for, is found in the table, is answered; the products of u with its
# local derivatives are asked for, are found remembered, are formed.
Kind = Literal["ask", "hit", "answer", "pull", "pulled", "pass"]
Event = tuple[Kind, str]


@dataclass(frozen=True)
class Record:
    """What the recursion did.

    Attributes:
        forward: the graph that was differentiated, operators stated by simpler ones taken apart.
        joint: forward and backward, nothing simplified; its forward nodes have the names that they have in ``forward``.
        adjoints: for each active node of ``forward``, by name, the node that is its adjoint; for one with several
            results a list of one for each, None where nothing flows.
        contributions: for each active node its consumers and what these add to its adjoint, in the order of summation.
        events: the protocol; ``asked``: it began at the inputs (else at the loss, for graphs too deep to ask down).
        naive: the protocol without a table, None where it would be long.
    """

    forward: Graph
    joint: Graph
    adjoints: dict[str, Any]
    contributions: dict[str, list[tuple[str, fx.Node]]]
    events: list[Event]
    asked: bool
    naive: list[Event] | None


class Recorded(Recursion):
    """The recursion, writing down what it does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.events: list[Event] = []

    def adjoint(self, v: fx.Node) -> Any:
        if v in self.table:
            self.events.append(("hit", v.name))
            return self.table[v]
        self.events.append(("ask", v.name))
        total = super().adjoint(v)
        self.events.append(("answer", v.name))
        return total

    def vjp(self, u: fx.Node) -> dict[fx.Node, list[Any]]:
        if u in self.pulled:
            self.events.append(("pulled", u.name))
            return self.pulled[u]
        self.events.append(("pull", u.name))
        contributions = super().vjp(u)
        self.events.append(("pass", u.name))
        return contributions


def record(forward: Graph, names: list[str]) -> Record:
    """Differentiate the first result of ``forward``, which must be a scalar, with respect to the inputs ``names``."""
    asked = len(active_nodes([forward.placeholder(n) for n in names], [forward.results[0]])) <= _DEEP
    joint, recursion, tracer = _run(forward, names, memoize=True, asked=asked)
    adjoints: dict[str, Any] = {}
    for v, total in recursion.table.items():
        adjoints[v.name] = _nodes(tracer, total)
    contributions: dict[str, list[tuple[str, fx.Node]]] = {v.name: [] for v in recursion.table}
    for v in recursion.table:
        for u in reversed(list(v.users)):
            for share in recursion.pulled.get(u, {}).get(v, []):
                part = share[1] if isinstance(share, tuple) else share
                if part is not None:
                    contributions[v.name].append((u.name, tracer.node_of(part)))
    naive = None
    if count_products(forward, names).naive <= _TREE:
        naive = _run(forward, names, memoize=False, asked=True)[1].events
    return Record(forward, joint, adjoints, contributions, recursion.events, asked, naive)


def _run(forward: Graph, names: list[str], memoize: bool, asked: bool) -> tuple[Graph, Recorded, Tracer]:
    fresh, where = forward.copy()
    sources = {name: where[forward.placeholder(name)] for name in names}
    results = [where[n] for n in forward.results]
    (target,) = targets_of(forward, None, None)
    inputs = list(forward.inputs)
    tracer = Tracer(fresh)
    tracer.adopt = lambda tensor: _constant(tracer, inputs, tensor)
    with tracer.rules(), _deep_stack(len(fresh.nodes) if asked else 0):
        with tracer.about(results[target]):
            seed = torch.ones_like(tracer.input(results[target]))
        order = active_nodes(list(sources.values()), [results[target]])
        recursion = Recorded(tracer, {results[target]: seed}, set(order), memoize)
        for v in [s for s in sources.values() if s in recursion.active] if asked else reversed(order):
            recursion.adjoint(v)
        if memoize:
            gradients = {n: recursion.table[s] for n, s in sources.items() if s in recursion.active}
            nodes = {name: tracer.node_of(g) for name, g in gradients.items() if g is not None}
        else:
            nodes = {}
    fresh.output(tuple([*results, *nodes.values()]))
    outputs = (*forward.outputs, *(Output("gradient", name) for name in nodes))
    joint = forward.with_fx(fresh, inputs=tuple(inputs), outputs=outputs, wrt=tuple(names))
    return joint.verify(), recursion, tracer


def _nodes(tracer: Tracer, total: Any) -> Any:
    if isinstance(total, list):
        return [None if t is None else tracer.node_of(t) for t in total]
    return None if total is None else tracer.node_of(total)


@contextmanager
def _deep_stack(nodes: int) -> Iterator[None]:
    """Room for a recursion as deep as a graph of so many nodes."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 2_000 + 12 * nodes))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
