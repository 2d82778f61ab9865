"""What a backend runs: the graph without the marks that only differentiation needed, and without waste of memory."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.graph.bindings import callable_of
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of
from memograd.lower.compact import compact
from memograd.tracing.functions import RESULTS, Call
from memograd.tracing.layouts import as_kernel

aten = torch.ops.aten
_VALUE_OF = {ops.stop: 0, ops.no_grad: 0, ops.overwrite: 1, ops.written: 1, ops.opaque: 0}  # which operand is the value


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
            continue  # its results are among its arguments
        operands: Any = node.args
        if node.target is operator.getitem and isinstance(operands[0].target, Call):
            call, index = operands
            where[node] = where[call.args[RESULTS][index]]
        elif node.target in _VALUE_OF:
            where[node] = where[operands[_VALUE_OF[node.target]]]
        else:
            where[node] = compact(_copy(new, node, where), batch)
            if isinstance(node.meta["val"], (tuple, list)):
                _pick(new, node, where)
    new.output(tuple(where[n] for n in graph.results))
    if any(isinstance(n.target, Call) for n in graph.nodes):
        _drop_unread(new)
    return graph.with_fx(new).verify()


def _copy(new: fx.Graph, node: fx.Node, where: dict[fx.Node, fx.Node]) -> fx.Node:
    """``node`` in the graph ``new``, with the strides that follow where its operands have others than they had."""
    copy = new.node_copy(node, where.__getitem__)
    if any(_strides(where[n]) != _strides(n) for n in node.all_input_nodes):
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), lambda n: n.meta["val"])
        copy.meta["val"] = as_kernel(node.target, args, callable_of(node)(*args, **kwargs))
    return copy


def _strides(node: fx.Node) -> list[tuple[int, ...]]:
    return [t.stride() for t in tensors_of(node)]


def _drop_unread(new: fx.Graph) -> None:
    """Drop what was only there for a backward to ask for."""
    for node in reversed(new.nodes):
        if node.op == "call_function" and not node.users and not ops.has_effect(node):
            new.erase_node(node)


def _pick(new: fx.Graph, node: fx.Node, where: dict[fx.Node, fx.Node]) -> None:
    """Pick the results of ``node`` at once: those that nobody reads can then be freed, the others one by one."""
    for user in node.users:
        if user.target is operator.getitem:
            where[user] = _copy(new, user, where)
