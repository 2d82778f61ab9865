"""Operators of PyTorch that hold more memory than their results need, with a copy that frees or avoids it.

* A mean or sum of losses comes as one number in the storage of all the single losses, and keeps that alive.
* A write into a part copies the whole storage behind it; behind a batch that is a view there may be a whole data set.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from memograd.graph.views import copies_storage, viewed

aten = torch.ops.aten
_LOSSES = (
    aten.mse_loss.default,
    aten.smooth_l1_loss.default,
    aten.soft_margin_loss.default,
    aten.binary_cross_entropy.default,
)


def compact(node: fx.Node, batch: Collection[str]) -> fx.Node:
    """What stands for ``node``, an operator just put into a graph. ``batch``: the names of inputs that a call gives."""
    if node.target in _LOSSES and node.meta["val"].dim() == 0:
        return _clone(node, node)
    if copies_storage(node) and node.target is not aten.as_strided_scatter.default:  # that one reads offsets
        part: Any = node.args[0]
        if _base(part).name in batch:
            with node.graph.inserting_before(node):
                node.args = (_clone(part, node), *node.args[1:])
            target: Any = node.target
            node.meta["val"] = target(*fx.map_arg(node.args, lambda n: n.meta["val"]), **node.kwargs)
    return node


def _base(node: fx.Node) -> fx.Node:
    """The node whose memory ``node`` looks at, however many views lie between them."""
    while (base := viewed(node)) is not None:
        node = base
    return node


def _clone(value: fx.Node, of: fx.Node) -> fx.Node:
    """A copy of ``value`` that belongs where ``of`` does."""
    copy = value.graph.call_function(aten.clone.default, (value,))
    copy.meta = {**of.meta, "val": value.meta["val"].clone()}
    return copy
