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

from torch import fx

from memograd.adjoint.activity import active_nodes
from memograd.adjoint.derivation import Derivation
from memograd.adjoint.products import count_products
from memograd.adjoint.recursion import Recursion, sum_of
from memograd.adjoint.selection import targets_of
from memograd.adjoint.watched import Moment, Question, Watched
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer

_DEEP = 3_000  # active nodes up to which the recursion may go as deep as the graph
_TREE = 400  # products of which the naive recursion is written down

# What happens, to which node: adjoint(v) is asked for, is found in the table, is answered; the products of u with its
# local derivatives are asked for, are found remembered, are formed.
Kind = Literal["ask", "hit", "answer", "pull", "pulled", "pass"]
Event = tuple[Kind, str]
_KINDS: dict[tuple[Question, Moment], Kind] = {
    ("adjoint", "asked"): "ask",
    ("adjoint", "remembered"): "hit",
    ("adjoint", "answered"): "answer",
    ("vjp", "asked"): "pull",
    ("vjp", "remembered"): "pulled",
    ("vjp", "answered"): "pass",
}


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


def record(forward: Graph, names: list[str]) -> Record:
    """Differentiate the first result of ``forward``, which must be a scalar, with respect to the inputs ``names``."""
    asked = len(active_nodes([forward.placeholder(n) for n in names], [forward.results[0]])) <= _DEEP
    joint, recursion, tracer, events = _run(forward, names, memoize=True, asked=asked)
    adjoints: dict[str, Any] = {}
    for v, total in recursion.table.items():
        adjoints[v.name] = _nodes(tracer, total)
    contributions: dict[str, list[tuple[str, fx.Node]]] = {v.name: [] for v in recursion.table}
    for v in recursion.table:
        for u in reversed(list(v.users)):
            for share in recursion.pulled.get(u, {}).get(v, []):
                part = sum_of(share) if isinstance(share, list) else share  # of several results one is picked
                if part is not None:
                    contributions[v.name].append((u.name, tracer.node_of(part)))
    naive = None
    if count_products(forward, names).naive <= _TREE:
        naive = _run(forward, names, memoize=False, asked=True)[-1]
    return Record(forward, joint, adjoints, contributions, events, asked, naive)


def _run(forward: Graph, names: list[str], memoize: bool, asked: bool) -> tuple[Graph, Recursion, Tracer, list[Event]]:
    derivation = Derivation(forward, names, targets_of(forward, None, None))
    tracer, sources = derivation.tracer, derivation.sources
    events: list[Event] = []

    def observer(moment: Moment, question: Question, node: fx.Node, answer: Any) -> None:
        events.append((_KINDS[question, moment], node.name))

    with tracer.rules(), _deep_stack(len(derivation.fx.nodes) if asked else 0):
        recursion = Watched(tracer, derivation.seeds(), set(derivation.active), observer, memoize)
        active = [s for s in sources.values() if s in recursion.active]
        for v in active if asked else reversed(derivation.active):
            recursion.adjoint(v)
        gradients = {n: recursion.table[s] for n, s in sources.items() if s in active} if memoize else {}
        return derivation.finished(gradients), recursion, tracer, events


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
