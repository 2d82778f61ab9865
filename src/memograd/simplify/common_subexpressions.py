"""Common subexpressions: the memo once more, at the level of expressions.

Two nodes with the same operator and the same operands are one value. Random operators never are.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from memograd.graph.graph import Graph
from memograd.ops import has_effect, opaque


def common(graph: Graph) -> Graph:
    """Compute each expression once."""
    new = fx.Graph()
    where: dict[fx.Node, fx.Node] = {}
    table: dict[Any, fx.Node] = {}
    for node in graph.fx.nodes:
        if node.op == "output":
            continue
        key = None
        if node.op == "call_function" and not has_effect(node) and node.target is not opaque:
            args, kwargs = fx.map_arg((node.args, node.kwargs), where.__getitem__)
            key = (node.target, _freeze(args), _freeze(kwargs))
        if key is not None and key in table:
            where[node] = table[key]
            continue
        where[node] = new.node_copy(node, where.__getitem__)
        if key is not None:
            table[key] = where[node]
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new)


def _freeze(value: Any) -> Any:
    """A hashable stand-in that tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(_freeze(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _freeze(v)) for k, v in sorted(value.items()))
    if isinstance(value, (float, complex)):
        return (type(value), repr(value))
    return (type(value), value)
