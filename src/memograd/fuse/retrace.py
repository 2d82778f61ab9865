"""A graph recorded anew, with some of its operators replaced: shapes, dtypes and strides are those that follow."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from memograd.graph import Graph
from memograd.ops import is_random
from memograd.tracer import Tracer

Replacement = Callable[..., Any]


def retrace(graph: Graph, replaced: Mapping[Any, Replacement]) -> Graph:
    """``graph`` where every operator that is a key of ``replaced`` is computed by the function there instead.

    What the graph returns keeps the strides it had.
    """
    if not any(n.target in replaced for n in graph.nodes):
        return graph
    new = fx.Graph()
    tracer = Tracer(new)
    values: dict[fx.Node, Any] = {}
    for node in graph.placeholders:
        values[node] = new.node_copy(node)
    with tracer.rules():
        for node, copy in values.items():
            values[node] = tracer.input(copy)
        for node in graph.nodes:
            operands: Any = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            args, kwargs = operands
            if node.target is operator.getitem:
                values[node] = args[0][args[1]]
                continue
            tracer.meta = {k: v for k, v in node.meta.items() if k != "val"}
            if node.target is torch.ops.aten.empty_like.default or is_random(node):
                values[node] = _drawn(node, args, kwargs, replaced)
                continue
            target: Any = replaced.get(node.target, node.target)
            values[node] = target(*args, **kwargs)
        results = [tracer.node_of(_laid_out(values[n], n.meta["val"])) for n in graph.results]
    new.output(tuple(results))
    return graph.with_fx(new).verify()


def _drawn(node: fx.Node, args: Any, kwargs: Any, replaced: Mapping[Any, Replacement]) -> Any:
    """Random numbers fill memory in its order: what they are drawn into keeps the strides it had."""
    value = node.meta["val"]
    if node.target is torch.ops.aten.empty_like.default:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    given = [_laid_out(a, n.meta["val"]) if isinstance(n, fx.Node) else a for a, n in zip(args, node.args, strict=True)]
    target: Any = replaced.get(node.target, node.target)
    return target(*given, **kwargs)


def _laid_out(made: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``made`` with the strides of ``like``."""
    if made.stride() == like.stride() or not made.numel():
        return made
    outwards = sorted(range(like.dim()), key=like.stride, reverse=True)
    return made.permute(outwards).contiguous().permute([outwards.index(d) for d in range(like.dim())])
