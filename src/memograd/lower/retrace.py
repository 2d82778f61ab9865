"""A graph recorded anew, with some of its operators replaced: shapes, dtypes and strides are those that follow."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.views import is_view
from memograd.looks import look
from memograd.tracing.operator_kinds import DECIDES_SHAPES
from memograd.tracing.tracer import Tracer

aten = torch.ops.aten
Replacement = Callable[..., Any]

# Operators that compute the same however their operands lie in memory, besides pointwise ones and views.
_INDIFFERENT = {
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool2d_backward.default,
    aten._native_batch_norm_legit_functional.default,
    aten._to_copy.default,
    aten.addmm.default,
    aten.avg_pool2d.default,
    aten.avg_pool2d_backward.default,
    aten.bmm.default,
    aten.cat.default,
    aten.convolution.default,
    aten.convolution_backward.default,
    aten.max_pool2d_with_indices.default,
    aten.max_pool2d_with_indices_backward.default,
    aten.mean.dim,
    aten.mm.default,
    aten.native_batch_norm_backward.default,
    aten.sum.dim_IntList,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d_backward.default,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d_backward.default,
    aten.var_mean.correction,
}


def retrace(graph: Graph, replaced: Mapping[Any, Replacement]) -> Graph:
    """``graph`` where every operator that is a key of ``replaced`` is computed by the function there instead.

    What the graph returns keeps the strides it had, and so does what an operator reads that may count on them: random
    numbers fill memory in its order, attention kernels want rows in one piece.
    """
    if not any(n.target in replaced for n in graph.nodes):
        return graph
    new = fx.Graph()
    tracer = Tracer(new)
    values: dict[fx.Node, Any] = {n: new.node_copy(n) for n in graph.placeholders}
    with tracer.rules():
        for node in graph.placeholders:
            values[node] = tracer.input(values[node])
        for node in graph.nodes:
            if node.target is operator.getitem:
                source, index = node.args
                values[node] = values[source][index]  # pyright: ignore[reportArgumentType]
            elif _hangs_on_values(node.target):
                values[node] = _copied(tracer, node, values)
            else:
                with tracer.labelled(node.meta):
                    values[node] = _recorded(node, values, replaced)
        results = [_returned(tracer, n, values[n]) for n in graph.results]
    new.output(tuple(results))
    return graph.with_fx(new).verify()


def _hangs_on_values(target: Any) -> bool:
    """Whether values decide what the operator returns, so that nobody can say it without them."""
    return target is look or getattr(target, "overloadpacket", None) in DECIDES_SHAPES


def _copied(tracer: Tracer, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """``node`` as it is, for the values at which it was captured."""
    args, kwargs = _operands(node, lambda n: tracer.node_of(values[n]))
    copy = tracer.graph.create_node(node.op, node.target, args, kwargs)
    copy.meta.update(node.meta)
    if isinstance(node.meta["val"], torch.Tensor):
        return tracer.input(copy)
    return [tracer.item(copy, k) for k in range(len(node.meta["val"]))]


def _returned(tracer: Tracer, node: fx.Node, value: Any) -> fx.Node:
    """What stands for the result ``node``, with its strides."""
    with tracer.labelled(node.meta):
        return tracer.node_of(_laid_out(value, node.meta["val"]))


def _recorded(node: fx.Node, values: Mapping[fx.Node, Any], replaced: Mapping[Any, Replacement]) -> Any:
    value = node.meta["val"]
    if node.target is aten.empty_like.default:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    target: Any = replaced.get(node.target, node.target)
    if _is_indifferent(node):
        args, kwargs = _operands(node, values.__getitem__)
        with suppress(RuntimeError, ValueError):  # a view of dimensions that do not lie together any more
            return target(*args, **kwargs)
    args, kwargs = _operands(node, lambda n: _laid_out(values[n], n.meta["val"]))
    return target(*args, **kwargs)


def _operands(node: fx.Node, read: Callable[[fx.Node], Any]) -> Any:
    return fx.map_arg((node.args, node.kwargs), read)


def _is_indifferent(node: fx.Node) -> bool:
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return pointwise or node.target in _INDIFFERENT or is_view(node)


def _laid_out(tensor: Any, like: Any) -> Any:
    """``tensor`` with the strides of ``like``."""
    if not isinstance(like, torch.Tensor) or tensor.stride() == like.stride() or not tensor.numel():
        return tensor
    outwards = sorted(range(like.dim()), key=like.stride, reverse=True)
    return tensor.permute(outwards).contiguous().permute([outwards.index(d) for d in range(like.dim())])
