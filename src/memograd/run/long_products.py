"""Products of long rows and long columns on the CPU, in as many parts as there are threads.

The gradient of a small matrix of weights is a product over the whole batch. A library of matrix products divides its
result among threads, of which such a small one is too little for two. So its rows and columns are divided, each part
is a product of its own, and the sum of these the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd.graph.rewriting import Rewriting

aten = torch.ops.aten
_LEAST = 1 << 18  # multiply-adds of a part: some microseconds, which another thread must take to be worth waking
_LONG = 16  # times as long as the result is high or wide: otherwise it is divided


def parts_of(node: fx.Node) -> int:
    """In how many parts the product ``node`` is to be made; 1: as it is."""
    value, left = node.meta["val"], node.all_input_nodes[0].meta["val"]
    if value.device.type != "cpu" or value.dtype not in (torch.float32, torch.float64):
        return 1
    length = left.shape[1]
    if length < _LONG * max(value.shape):
        return 1
    most = min(torch.get_num_threads(), length * value.numel() // _LEAST)
    return next((parts for parts in range(most, 1, -1) if length % parts == 0), 1)


def in_parts(new: Rewriting, node: fx.Node, parts: int) -> fx.Node:
    """The product ``node`` as the sum of ``parts`` products."""
    operands: Any = fx.map_arg(node.args, new.where.__getitem__)
    a, b = operands
    call = new.fx.call_function
    rows = call(aten.permute.default, (call(aten.view.default, (a, [*_divided(node.args[0], 1, parts)])), [1, 0, 2]))
    columns = call(aten.view.default, (b, [*_divided(node.args[1], 0, parts)]))
    total = call(aten.sum.dim_IntList, (call(aten.bmm.default, (rows, columns)), [0]))
    total.meta.update(node.meta)
    return total


def _divided(operand: Any, dim: int, parts: int) -> list[int]:
    """The shape of ``operand`` where one dimension is divided."""
    shape = list(operand.meta["val"].shape)
    return [*shape[:dim], parts, shape[dim] // parts, *shape[dim + 1 :]]
