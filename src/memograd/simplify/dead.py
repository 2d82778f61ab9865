"""Dead code: operators nobody reads are dropped, and backward kernels stop computing gradients nobody reads.

Random operators stay even when unread: dropping one would shift every draw after it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.rewriting import drop_unread
from memograd.ops import has_effect

aten = torch.ops.aten

# Backward kernels with a mask of the gradients wanted: operator -> position of the mask.
MASKED = {
    aten.convolution_backward.default: 10,
    aten.native_batch_norm_backward.default: 9,
    aten.native_layer_norm_backward.default: 7,
    aten.native_group_norm_backward.default: 9,
}


def dead(graph: Graph) -> Graph:
    """Drop what no result needs."""
    if all(n.users or has_effect(n) for n in graph.nodes) and not any(n.target in MASKED for n in graph.nodes):
        return graph
    new = graph.rewritten()
    drop_unread(new.fx)
    for node in new.nodes:
        if node.target in MASKED:
            _narrow(node)
    return new


def _narrow(node: fx.Node) -> None:
    """Ask a masked kernel only for the outputs that are read."""
    target: Any = node.target
    position = MASKED[target]
    if len(node.args) <= position:
        return
    mask: Any = node.args[position]
    reads: list[Any] = [u.args for u in node.users if u.target is operator.getitem]
    read = {index for _, index in reads}
    narrowed = [bool(wanted) and i in read for i, wanted in enumerate(mask)]
    node.args = (*node.args[:position], narrowed, *node.args[position + 1 :])
