"""How many products the chain rule forms, with and without memory: counted, not run.

A *product* is one adjoint times one local derivative: one edge of the graph, walked once. The memoized recursion walks
every edge on a path from the loss to an input of interest exactly once. The naive one walks edge (v, u) once for every
path from u to the loss, so with N(v) = products to form adjoint(v) from nothing::

    N(loss) = 0          N(v) = sum over consumers u of v: 1 + N(u)

which is itself a recursion with a table.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import fx

from memograd.adjoint.activity import active_nodes, operands
from memograd.adjoint.selection import inputs_of, targets_of
from memograd.graph.graph import Graph, OutputKind


@dataclass(frozen=True)
class Products:
    """Exact counts: ``naive`` (once for every path) and ``memoized`` (once for every edge)."""

    naive: int
    memoized: int


def count_products(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    of: str | None = None,
    cotangents: OutputKind | None = None,
    among: Collection[str] | None = None,
) -> Products:
    """How many products the recursion forms for these gradients.

    Args:
        graph, wrt, of, cotangents, among: as for ``differentiate``.

    Returns:
        ``naive``: one for every path from a result to an input; ``memoized``: one for every edge on such a path.

    Raises:
        GraphError: where ``differentiate`` raises one for the same arguments.
    """
    sources = list(dict.fromkeys(graph.placeholder(name) for name in inputs_of(graph, wrt)))
    results = [graph.results[i] for i in targets_of(graph, of, cotangents, among)]
    order = active_nodes(sources, results)
    active = set(order)
    naive: dict[fx.Node, int] = {}
    memoized = 0
    for v in reversed(order):
        naive.setdefault(v, 0)
        if v.op != "call_function":
            continue
        for operand in operands(v):
            if operand in active:
                memoized += 1
                naive[operand] = naive.get(operand, 0) + 1 + naive[v]
    return Products(sum(naive.get(s, 0) for s in sources), memoized)
