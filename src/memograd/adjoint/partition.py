"""Cut a differentiated graph in two: what can run before the cotangents are known, and the rest.

The first graph returns the results and every value the second one reads: those are computed once and remembered, so
a random mask drawn in the forward pass is the one the backward pass sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.printing import flat_function, load
from memograd.graph.views import is_view


@dataclass(frozen=True)
class Halves:
    """``forward(*inputs) -> (results..., saved...)`` and ``backward(*saved, *cotangents) -> (gradients...)``.

    Attributes:
        reads: what the second half reads, ``nodes``: its operators, in order, ``gradients``: what it returns.
    """

    forward: Callable[..., tuple[torch.Tensor, ...]]
    results: int
    reads: list[fx.Node]
    nodes: list[fx.Node]
    gradients: list[fx.Node]

    @cached_property
    def backward(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        return load(flat_function("backward", self.reads, self.nodes, self.gradients), "backward")


def partition(joint: Graph) -> Halves:
    """Cut ``joint`` at its cotangents."""
    pairs = list(zip(joint.placeholders, joint.inputs, strict=True))
    late: set[fx.Node] = {n for n, i in pairs if i.kind == "cotangent"}
    cotangents = [n for n, i in pairs if i.kind == "cotangent"]
    for node in joint.nodes:
        if any(n in late for n in node.all_input_nodes):
            late.add(node)
    results = [n for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind != "gradient"]
    gradients = [n for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind == "gradient"]
    back = [n for n in joint.nodes if n in late]
    read: dict[fx.Node, None] = {}
    for node in back:
        read.update(dict.fromkeys(n for n in node.all_input_nodes if n not in late))
    read.update(dict.fromkeys(g for g in gradients if g not in late))
    views = _views(read)
    if views:
        back = [n for n in joint.nodes if n in late or n in views]
    saved = [n for n in read if n not in views and isinstance(n.meta["val"], torch.Tensor)]
    inputs = [n for n, i in pairs if i.kind != "cotangent"]
    early = [n for n in joint.nodes if n not in late]
    forward = flat_function("forward", inputs, early, [*results, *saved])
    return Halves(load(forward, "forward"), len(results), [*saved, *cotangents], back, gradients)


def _views(read: dict[fx.Node, None]) -> set[fx.Node]:
    """The views among the values that are ``read``: they are made again of what they look at, which is read instead.
    (Who remembers both a tensor and a view of it remembers one of them in vain, and autograd's own results so that they
    never die.)"""
    views: set[fx.Node] = set()
    waiting = list(read)
    while waiting:
        node = waiting.pop()
        if is_view(node) and node not in views:
            views.add(node)
            for operand in node.all_input_nodes:
                read[operand] = None
                waiting.append(operand)
    return views


def gather(halves: Halves, flat: list[Any]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Run the first half: (results, saved values)."""
    out = halves.forward(*flat)
    return out[: halves.results], out[halves.results :]
