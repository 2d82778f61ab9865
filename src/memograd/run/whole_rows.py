"""Rows that are no whole number of vectors, several at a time, where a row is added to each: a bias.

A kernel that reads one row again and again goes through memory row by row, and computes the rest of each row in a
vector of its own: a row of 20 numbers takes two vectors of 16. Four such rows are five whole vectors. So the row that
is added is laid out several times, and the kernel goes through several rows as if they were one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_BYTES = 64  # of the longest vector
_MOST = 8  # rows as one
_LEAST = 1 << 13  # elements: fewer take no time
_SLOW = (aten.exp.default, aten.sigmoid.default, aten.erf.default)  # what a vector takes long for
_WAITING = (aten.mm.default, aten.addmm.default, aten.bmm.default)  # what reads its operands from memory


def whole_rows(graph: fx.Graph) -> None:
    """Behind each sum of a row and a product."""
    for total in graph.find_nodes(op="call_function", target=aten.add.Tensor):
        row, product = [*total.args, None][:2]
        if not total.kwargs and getattr(product, "target", None) is aten.mm.default and (k := _together(row, total)):
            inside = _behind(total)
            if inside is not None and any(node.target in _SLOW for node in inside):
                _widen(graph, inside, row, product, k)


def _together(row: Any, total: fx.Node) -> int:
    """How many rows are to be one; 0: none are, ``total`` is no sum of that kind or has whole ones."""
    value = total.meta["val"]
    if not isinstance(row, fx.Node) or value.device.type != "cpu" or row.meta["val"].shape != value.shape[1:]:
        return 0
    rows, columns = value.shape
    lanes = _BYTES // value.element_size()
    k = lanes // math.gcd(columns, lanes)
    few = columns > 4 * lanes or rows * columns < _LEAST or row.meta["val"].dtype != value.dtype
    return 0 if few or k == 1 or k > _MOST or rows % k else k


def _behind(total: fx.Node) -> list[fx.Node] | None:
    """``total`` and what is computed of it alone, element by element; None where somebody else computes on with
    that."""
    inside, value = {total: None}, total.meta["val"]
    waiting = [*total.users]
    for node in waiting:
        if node in inside or node.op == "output" or node.target in _WAITING:
            continue
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) and node.meta["val"].shape == value.shape:
            inside[node] = None
            waiting += node.users
        elif not _leads_to_products(node):
            return None
    if any(
        n not in inside and n.meta["val"].dim() for node in inside if node is not total for n in node.all_input_nodes
    ):
        return None
    order = {node: at for at, node in enumerate(total.graph.nodes) if node in inside}
    return sorted(inside, key=order.__getitem__)


def _leads_to_products(node: fx.Node) -> bool:
    """Whether ``node`` is a transposed operand of products."""
    turned = node.target in (aten.permute.default, aten.t.default, aten.transpose.int)
    return turned and all(n.op == "output" or n.target in _WAITING for n in node.users)


def _widen(graph: fx.Graph, inside: list[fx.Node], row: fx.Node, product: fx.Node, k: int) -> None:
    rows, columns = inside[0].meta["val"].shape
    wide, narrow = [rows // k, k * columns], [rows, columns]

    def view(node: fx.Node, shape: list[int]) -> fx.Node:
        seen = graph.call_function(aten.view.default, (node, shape))
        seen.meta["val"] = node.meta["val"].new_empty(shape)
        return seen

    with graph.inserting_before(inside[0]):
        many = graph.call_function(aten.cat.default, ([row] * k,))
        many.meta["val"] = row.meta["val"].repeat(k)
        where: dict[fx.Node, fx.Node] = {row: many, product: view(product, wide)}
    for node in inside:
        with graph.inserting_before(node):
            where[node] = graph.node_copy(node, lambda n: where.get(n, n))
            where[node].meta["val"] = node.meta["val"].new_empty(wide)
            back = view(where[node], narrow)
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user not in inside)
    for node in reversed(inside):
        graph.erase_node(node)
    for node in where.values():
        for user in [*node.users]:
            if user.target is aten.view.default and not user.users:
                graph.erase_node(user)
