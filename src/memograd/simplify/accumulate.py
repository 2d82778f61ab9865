"""Sums of adjoints are formed as their summands come, not at the end: a weight used at every time step then needs room
for one gradient, not for one from each step. No value changes; only the order of the operators does.
"""

from __future__ import annotations

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.tracing.mutation import is_view


def accumulate(graph: Graph) -> Graph:
    """Move each sum that is the only reader of its summands to right behind the later of the two."""
    nodes = list(graph.fx.nodes)
    anchor: dict[fx.Node, int] = {}  # behind which of the other nodes a node stands
    for position, node in enumerate(nodes):
        early = _frees(node) or _is_summand_seen_otherwise(node)
        anchor[node] = max(anchor[n] for n in node.all_input_nodes) if early else position
    place = {node: position for position, node in enumerate(nodes)}
    ordered = sorted(nodes, key=lambda n: (anchor[n], place[n]))
    return graph if ordered == nodes else graph.rewritten(nodes=ordered)


def _is_summand_seen_otherwise(node: fx.Node) -> bool:
    """Whether a node is a view (a transposed gradient) that only a sum of adjoints reads: it moves with the sum."""
    while _views(node) and len(node.users) == 1 and "adjoint_of" in node.meta:
        (node,) = node.users
        if _frees(node):
            return True
    return False


def _frees(node: fx.Node) -> bool:
    """Whether both summands die in a sum of adjoints."""
    summands = node.all_input_nodes
    return (
        node.target is torch.ops.aten.add.Tensor
        and "adjoint_of" in node.meta
        and len(summands) == 2
        and all(len(n.users) == 1 and n.op == "call_function" for n in summands)
    )


def _views(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and is_view(node.target)
