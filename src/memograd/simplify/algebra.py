"""Algebra: rewrites that leave every value bit for bit as it was.

    x * 1 = x           x / 1 = x           (the ones of the recursion's seed; not x + 0, which is no identity for -0.0)
    tᵀᵀ = t             a view of a view that restores the shape, an expand to the own shape = x

Each line of ``REWRITES`` and of ``OF_VIEWS`` is one identity with its own test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting

aten = torch.ops.aten
_ONES = (aten.ones_like.default, aten.ones.default)
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def is_one(node: Any) -> bool:
    """True for a number 1 and for a tensor known to be all ones."""
    while isinstance(node, fx.Node) and node.target in (aten.expand.default, ops.stop, ops.no_grad):
        node = node.args[0]
    if isinstance(node, fx.Node):
        return node.target in _ONES
    return isinstance(node, (int, float)) and node == 1


def _same(node: fx.Node, x: Any) -> bool:
    """``x`` can stand for ``node``: same shape, dtype and strides."""
    if not isinstance(x, fx.Node) or not isinstance(x.meta.get("val"), torch.Tensor):
        return False
    a, b = node.meta["val"], x.meta["val"]
    return a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()


def times_one(node: fx.Node) -> Any:
    """x · 1 = x."""
    if node.target is aten.mul.Tensor:
        x, z = node.args
        if is_one(z) and _same(node, x):
            return x
        if is_one(x) and _same(node, z):
            return z
    return None


def over_one(node: fx.Node) -> Any:
    """x / 1 = x."""
    return (
        node.args[0] if node.target is aten.div.Tensor and is_one(node.args[1]) and _same(node, node.args[0]) else None
    )


def double_transpose(node: fx.Node) -> Any:
    """(xᵀ)ᵀ = x."""
    x = node.args[0] if node.args else None
    if isinstance(x, fx.Node) and _swaps(node) is not None and _swaps(node) == _swaps(x):
        return x.args[0]
    return None


def _swaps(node: fx.Node) -> set[int] | None:
    """The two dimensions that a transpose changes with each other."""
    if node.target is aten.t.default:
        return {0, 1}
    if node.target is not aten.transpose.int:
        return None
    dims = node.meta["val"].dim()
    return {d % dims for d in node.args[1:]} if dims else None  # pyright: ignore[reportOperatorIssue]


def same_shape(node: fx.Node) -> Any:
    """A view, expand or copy to what it already is."""
    if node.target in (*_VIEWS, aten.expand.default, aten.alias.default) and _same(node, node.args[0]):
        return node.args[0]
    return None


def double_view(node: fx.Node) -> Any:
    """view(view(x)) = x where the outer one restores the shape."""
    x = node.args[0] if node.args else None
    if node.target in _VIEWS and isinstance(x, fx.Node) and x.target in _VIEWS and _same(node, x.args[0]):
        return x.args[0]
    return None


Rewrite = Callable[[fx.Node], Any]
REWRITES: tuple[Rewrite, ...] = (times_one, over_one)
OF_VIEWS: tuple[Rewrite, ...] = (double_transpose, same_shape, double_view)


def algebra(graph: Graph, keep_views: bool = False) -> Graph:
    """Apply every rewrite once, operands first; ``keep_views``: but those of views."""
    rewrites = REWRITES if keep_views else (*REWRITES, *OF_VIEWS)

    def simplest(new: Rewriting, node: fx.Node) -> fx.Node:
        copied = new.copy(node)
        if copied.op == "call_function":
            for rewrite in rewrites:
                if (simpler := rewrite(copied)) is not None:
                    new.fx.erase_node(copied)
                    return simpler
        return copied

    return graph.rewritten(simplest)
