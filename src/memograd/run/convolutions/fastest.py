"""A graph with convolutions by the fastest algorithm. Sums are rounded in another order than PyTorch's."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.run.batch_norm import compiled_batch_norm
from memograd.run.convolutions.case import DIRECT, Case
from memograd.run.convolutions.operators import fit
from memograd.run.max_pool import compiled_pooling
from memograd.run.nearest import compiled_nearest
from memograd.run.pool_first import pool_first

aten = torch.ops.aten
_FORWARD, _BACKWARD = aten.convolution.default, aten.convolution_backward.default
_KINDS = ("input_gradient", "filter_gradient")
_NAMES = {DIRECT: "PyTorch's kernel", "winograd": "Winograd's tiles", "patches": "patches", "positions": "positions"}


class Fastest:
    """Writes a graph anew with convolutions by the algorithm that measures fastest, and with the compiled loops over
    images that stand between them.

    Attributes:
        algorithms: how many convolutions and gradients of them each algorithm does.
    """

    def __init__(self) -> None:
        self.algorithms: dict[str, int] = {}

    def rewritten(self, graph: Graph) -> Graph:
        if any(node.target in (_FORWARD, _BACKWARD) for node in graph.nodes):
            graph = graph.rewritten(self._visit)
        return compiled_batch_norm(compiled_nearest(compiled_pooling(pool_first(graph))))

    @property
    def differs(self) -> bool:
        """Whether any of them is not PyTorch's own."""
        return bool(set(self.algorithms) - {DIRECT})

    @property
    def said(self) -> str:
        """Which algorithms do how many convolutions, in words."""
        counts = [f"{count} by {_NAMES[by]}" for by, count in sorted(self.algorithms.items())]
        return f"of convolutions and their gradients {', '.join(counts)}" if counts else ""

    def _visit(self, new: Rewriting, node: fx.Node) -> Any:
        if node.target is _FORWARD and _can(node.args, node.meta["val"]):
            return self._forward(new, node)
        if node.target is _BACKWARD and _can(node.args[1:], _value(node.args[0])):
            return self._backward(new, node)
        return new.copy(node)

    def _forward(self, new: Rewriting, node: fx.Node) -> fx.Node:
        x, w, _, stride, padding, *_ = node.args
        by = self._fastest("convolution", x, w, node, stride, padding)
        copy = new.copy(node)
        if by != DIRECT:
            copy.target, copy.args = torch.ops.memograd.convolution.default, (*copy.args[:5], by)
        return copy

    def _backward(self, new: Rewriting, node: fx.Node) -> Any:
        arguments: Any = node.args
        g, x, w, _, stride, padding, *_, mask = arguments
        by = [
            self._fastest(kind, x, w, g, stride, padding) if asked else None
            for kind, asked in zip(_KINDS, mask[:2], strict=True)
        ]
        if not {*by} - {None, DIRECT}:
            return new.copy(node)
        values = node.meta["val"]
        results: list[Any] = [None, None, None]
        for k, (name, operand, shaped) in enumerate(zip(by, (w, x), (x, w), strict=True)):
            if name == DIRECT:
                alone = new.copy(node)
                alone.args = (*alone.args[:-1], [k == 0, k == 1, False])
                results[k] = _call(new, node, getitem, (alone, k), values[k])
            elif name is not None:
                operator = getattr(torch.ops.memograd, f"convolution_{_KINDS[k]}").default
                args = (new.where[g], new.where[operand], list(_value(shaped).shape), stride, padding, name)
                results[k] = _call(new, node, operator, args, values[k])
        if mask[2]:
            results[2] = _call(new, node, aten.sum.dim_IntList, (new.where[g], [0, 2, 3]), values[2])
        return results

    def _fastest(self, kind: Any, x: Any, w: Any, result: Any, stride: Any, padding: Any) -> str:
        image, filters, out = (tuple(_value(v).shape) for v in (x, w, result))
        by = Case(kind, image, filters, out, tuple(stride), tuple(padding)).fastest()
        self.algorithms[by] = self.algorithms.get(by, 0) + 1
        return by


def _can(args: Any, result: torch.Tensor) -> bool:
    x, w, _, stride, _, dilation, transposed, _, groups, *_ = args
    plain = not transposed and groups == 1 and len(stride) == 2 and all(d == 1 for d in dilation)
    return plain and fit(_value(x), _value(w), result)


def _value(node: Any) -> torch.Tensor:
    return node.meta["val"]


def _call(new: Rewriting, like: fx.Node, target: Any, args: Any, value: torch.Tensor) -> fx.Node:
    node = new.fx.call_function(target, args)
    node.meta = {**like.meta, "val": value}
    return node
