"""What a backend runs: the graph without the marks that only differentiation needed, and without waste of memory."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.graph.graph import Graph
from memograd.lower.compact import compact
from memograd.tracing.functions import Call

aten = torch.ops.aten
_VALUE_OF = {ops.stop: 0, ops.overwrite: 1, ops.opaque: 0}  # which operand is the value


def lower(graph: Graph) -> Graph:
    """``graph`` with every mark replaced by the value it stands for."""
    new = fx.Graph()
    where: dict[fx.Node, fx.Node] = {}
    batch = {n.name for n, i in zip(graph.placeholders, graph.inputs, strict=True) if i.tensor is None}
    for node in graph.fx.nodes:
        if node.op == "output":
            continue
        if node in where:
            continue
        if isinstance(node.target, Call):
            continue  # its results are its second argument
        operands: Any = node.args
        if node.target is operator.getitem and isinstance(operands[0].target, Call):
            call, index = operands
            where[node] = where[call.args[1][index]]
        elif node.target in _VALUE_OF:
            where[node] = where[operands[_VALUE_OF[node.target]]]
        else:
            where[node] = compact(new.node_copy(node, where.__getitem__), batch)
            if isinstance(node.meta["val"], (tuple, list)):
                _pick(new, node, where)
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new).verify()


def _pick(new: fx.Graph, node: fx.Node, where: dict[fx.Node, fx.Node]) -> None:
    """Pick the results of ``node`` at once: those that nobody reads can then be freed, the others one by one."""
    for user in node.users:
        if user.target is operator.getitem:
            where[user] = new.node_copy(user, where.__getitem__)
