"""What values are computed of, and what is computed of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from memograd.graph.graph import Graph


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """``nodes`` and all that they are computed of."""
    stack = list(nodes)
    reached = set(stack)
    while stack:
        operands = [n for n in stack.pop().all_input_nodes if n not in reached]
        reached.update(operands)
        stack += operands
    return reached


def descendants(graph: Graph, nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """``nodes`` and all operators of ``graph`` that are computed of them."""
    reached = set(nodes)
    for node in graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached


def behind_cotangents(joint: Graph) -> set[fx.Node]:
    """The cotangents among the inputs of ``joint``, and all that waits for them."""
    pairs = zip(joint.placeholders, joint.inputs, strict=True)
    return descendants(joint, [n for n, i in pairs if i.kind == "cotangent"])
