"""Cut a differentiated graph in two: what can run before the cotangents are known, and the rest.

The first graph returns the results and every value the second one reads: those are computed once and remembered, so
a random mask drawn in the forward pass is the one the backward pass sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph, load
from memograd.graph.printing import flat_function


@dataclass(frozen=True)
class Halves:
    """``forward(*inputs) -> (results..., saved...)`` and ``backward(*saved, *cotangents) -> (gradients...)``."""

    forward: Callable[..., tuple[torch.Tensor, ...]]
    backward: Callable[..., tuple[torch.Tensor, ...]]
    results: int


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
    saved = [n for n in read if isinstance(n.meta["val"], torch.Tensor)]
    inputs = [n for n, i in pairs if i.kind != "cotangent"]
    early = [n for n in joint.nodes if n not in late]
    forward = flat_function("forward", inputs, early, [*results, *saved])
    backward = flat_function("backward", [*saved, *cotangents], back, gradients)
    return Halves(load(forward, "forward"), load(backward, "backward"), len(results))


def gather(halves: Halves, flat: list[Any]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Run the first half: (results, saved values)."""
    out = halves.forward(*flat)
    return out[: halves.results], out[halves.results :]
