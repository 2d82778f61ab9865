"""Which nodes take part in differentiation: those on a path from an input of interest to a result."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.rules.registry import lookup
from memograd.targets import Target


def is_smooth(node: Any) -> bool:
    """True when the node's value (or one of its values) is of a floating-point or complex type."""
    value = node.meta["val"]
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(v, torch.Tensor) and (v.is_floating_point() or v.is_complex()) for v in values)


def active_nodes(sources: Iterable[fx.Node], results: Iterable[fx.Node]) -> list[fx.Node]:
    """The nodes that depend on a source and that a result depends on, in order of computation."""
    graph_nodes: list[fx.Node] = []
    depends: set[fx.Node] = set()
    for source in sources:
        if is_smooth(source):
            depends.add(source)
    graph = next(iter(depends)).graph if depends else None
    for node in graph.nodes if graph is not None else ():
        if node in depends or (node.op == "call_function" and _passes(node, depends)):
            depends.add(node)
            graph_nodes.append(node)
    needed: set[fx.Node] = {r for r in results if r in depends}
    for node in reversed(graph_nodes):
        if node in needed and node.op == "call_function":
            needed.update(v for v in operands(node) if v in depends)
    return [n for n in graph_nodes if n in needed]


def sources_of(sources: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """From which of ``sources``, nodes of one graph, each node that depends on one is computed: bits by position."""
    bits = {source: 1 << k for k, source in enumerate(sources)}
    for node in sources[0].graph.nodes if sources else ():
        if node.op == "call_function" and _passes(node, bits):
            for operand in operands(node):
                bits[node] = bits.get(node, 0) | bits.get(operand, 0)
    return bits


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The arguments an adjoint of ``node`` can flow to, one entry for each slot (``x * x`` has two)."""
    if node.target in (ops.overwrite, ops.written):
        written: Any = node.args[0]
        return (written,)
    flat: list[fx.Node] = []
    flows = node.target.flows if isinstance(node.target, Target) else None
    fx.map_arg(node.args[:flows], lambda n: flat.append(n) or n)
    return tuple(flat)


def _passes(node: fx.Node, depends: Container[fx.Node]) -> bool:
    """Whether an adjoint can flow through ``node`` to something it depends on."""
    if node.target is ops.stop or not is_smooth(node):
        return False
    entry = lookup(node.target)
    if entry is not None and entry.kind == "constant":
        return False
    return any(v in depends for v in operands(node))
