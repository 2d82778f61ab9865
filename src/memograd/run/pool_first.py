"""``max_pool(relu(x))`` as ``relu(max_pool(x))``, forward and backward: the rectifier sees the small image.

It never swaps the order of two numbers, so each window has the same maximum either way. Where that is positive, or NaN,
it is the same element too; where it is not, no gradient passes, whichever element was the largest. Only the sign
of a zero can differ: PyTorch's rectifier leaves a negative one as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.graph.views import viewed

aten = torch.ops.aten
_POOL, _BACK = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
_MASK = aten.threshold_backward.default
_SMALLER = 2  # times: a pooled image that is hardly smaller gains nothing


@dataclass(frozen=True)
class _Pair:
    """A rectifier, the pooling behind it, and the mask behind each backward of that, which is the rectifier's."""

    relu: fx.Node
    pool: fx.Node
    masks: dict[fx.Node, fx.Node]


def pool_first(graph: Graph) -> Graph:
    """``graph`` with each rectifier that only a pooling reads behind that pooling."""
    pairs = [p for n in graph.nodes if n.target is aten.relu.default and (p := _pair(n)) is not None]
    if not pairs:
        return graph
    relus = {p.relu for p in pairs}
    pools = {p.pool for p in pairs}
    pool_of_back = {back: p.pool for p in pairs for back in p.masks}
    back_of_mask = {mask: back for p in pairs for back, mask in p.masks.items()}
    relu_of = {p.pool: p.relu for p in pairs}

    def visit(new: Rewriting, node: fx.Node) -> Any:
        if node in relus:
            return new.where[node.all_input_nodes[0]]
        if node in pools:
            return _rectified(new, node, relu_of[node])
        if node in back_of_mask:
            return new.where[back_of_mask[node]]
        copy = new.copy(node)
        if node in pool_of_back:
            _mask_before(copy, new.where[pool_of_back[node]][0], next(iter(node.users)))
        return copy

    return graph.rewritten(visit)


def _pair(relu: fx.Node) -> _Pair | None:
    x, y = relu.all_input_nodes[0], relu.meta["val"]
    if viewed(x) is not None or x.meta["val"].stride() != y.stride():  # a view would keep all of its memory alive
        return None
    pools = [n for n in relu.users if n.target is _POOL]
    if len(pools) != 1 or pools[0].meta["val"][0].numel() * _SMALLER > y.numel():
        return None
    backs = [n for n in relu.users if n.target is _BACK]
    masks = {back: mask for back in backs if (mask := _mask(back, relu)) is not None}
    if set(relu.users) - {pools[0], *masks, *masks.values()}:
        return None
    places = [n for n in pools[0].users if n.target is not getitem or n.args[1] != 0]
    if any(n.target is not getitem or set(n.users) - set(masks) for n in places):
        return None
    if any(back.args[-1] not in places for back in masks):
        return None
    return _Pair(relu, pools[0], masks)


def _mask(back: fx.Node, relu: fx.Node) -> fx.Node | None:
    """What masks a gradient behind ``back`` as ``relu`` does, if that alone reads it."""
    mask = next(iter(back.users)) if len(back.users) == 1 else None
    return mask if mask is not None and mask.target is _MASK and mask.args == (back, relu, 0) else None


def _rectified(new: Rewriting, pool: fx.Node, relu: fx.Node) -> list[fx.Node]:
    copy = new.copy(pool)
    values, places = pool.meta["val"]
    largest = _call(new.fx, getitem, (copy, 0), pool, values)
    return [
        _call(new.fx, aten.relu.default, (largest,), relu, torch.empty_like(values)),
        _call(new.fx, getitem, (copy, 1), pool, places),
    ]


def _mask_before(back: fx.Node, rectified: fx.Node, mask: fx.Node) -> None:
    gradient: Any = back.args[0]
    with back.graph.inserting_before(back):
        masked = _call(back.graph, _MASK, (gradient, rectified, 0), mask, torch.empty_like(gradient.meta["val"]))
    back.args = (masked, *back.args[1:])


def _call(to: fx.Graph, target: Any, args: Any, like: fx.Node, value: Any) -> fx.Node:
    """An operator that belongs where ``like`` does."""
    node = to.call_function(target, args)
    node.meta = {**like.meta, "val": value}
    return node
