"""Common subexpressions: the memo once more, at the level of expressions.

Two nodes with the same operator and the same operands are one value. Random operators never are.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.graph.signature import distinct
from memograd.ops import has_effect, opaque


def common(graph: Graph) -> Graph:
    """Compute each expression once."""
    table: dict[Any, fx.Node] = {}

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        if node.op != "call_function" or has_effect(node) or node.target is opaque:
            return new.copy(node)
        args, kwargs = fx.map_arg((node.args, node.kwargs), new.where.__getitem__)
        key = (node.target, _freeze(args), _freeze(kwargs))
        if key not in table:
            table[key] = new.copy(node)
        return table[key]

    return graph.rewritten(visit)


def _freeze(value: Any) -> Any:
    """A hashable stand-in that tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_freeze(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _freeze(v)) for k, v in sorted(value.items()))
    return (type(value), distinct(value))
