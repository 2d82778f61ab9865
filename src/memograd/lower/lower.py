"""What a backend runs: the graph without the marks that only differentiation needed, and without waste of memory."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.graph.bindings import callable_of
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting, drop_unread
from memograd.graph.views import tensors_of
from memograd.lower.compact import compact
from memograd.tracing.functions import RESULTS, Call
from memograd.tracing.layouts import as_kernel

aten = torch.ops.aten
# Which operand is the value.
_VALUE_OF: dict[Any, int] = {ops.stop: 0, ops.no_grad: 0, ops.overwrite: 1, ops.written: 1, ops.opaque: 0}


def lower(graph: Graph) -> Graph:
    """``graph`` with every mark replaced by the value it stands for."""
    batch = {n.name for n, i in zip(graph.placeholders, graph.inputs, strict=True) if i.tensor is None}

    def visit(new: Rewriting, node: fx.Node) -> Any:
        operands: Any = node.args
        if isinstance(node.target, Call):  # its results are among its arguments
            return [new.where.get(n) for n in operands[RESULTS]]
        if (value := _VALUE_OF.get(node.target)) is not None:
            return new.where[operands[value]]
        new.where[node] = compact(_copy(new, node), batch)
        if isinstance(node.meta["val"], (tuple, list)):
            _pick(new, node)
        return new.where[node]

    lowered = graph.rewritten(visit)
    if any(isinstance(n.target, Call) for n in graph.nodes):  # what was only there for a backward to ask for
        drop_unread(lowered.fx)
    return lowered.verify()


def _copy(new: Rewriting, node: fx.Node) -> fx.Node:
    """``node`` in the graph ``new``, with the strides that follow where its operands have others than they had."""
    copy = new.copy(node)
    if any(_strides(new.where[n]) != _strides(n) for n in node.all_input_nodes):
        args, kwargs = fx.map_arg((copy.args, copy.kwargs), lambda n: n.meta["val"])
        copy.meta["val"] = as_kernel(node.target, args, callable_of(node)(*args, **kwargs))
    return copy


def _strides(node: fx.Node) -> list[tuple[int, ...]]:
    return [t.stride() if t.layout is torch.strided else () for t in tensors_of(node)]


def _pick(new: Rewriting, node: fx.Node) -> None:
    """Pick the results of ``node`` at once: those that nobody reads can then be freed, the others one by one."""
    for user in node.users:
        if user.target is operator.getitem:
            new.where[user] = _copy(new, user)
