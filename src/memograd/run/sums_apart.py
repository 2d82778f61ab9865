"""``x + a @ b`` for ``addmm(x, a, b)``, whose sum the compiler then makes in one kernel with what reads it.

``addmm`` begins with a copy of x, broadcast, for the product to be added to: one more way through memory. Inductor
takes it apart on GPUs, and on CPUs makes more of them (of ``x + a @ b``).
"""

from __future__ import annotations

import torch
from torch import fx

aten = torch.ops.aten


def sums_apart(graph: fx.Graph) -> None:
    """Where all that reads the sum is pointwise."""
    for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
        if not node.kwargs and node.users and all(map(_is_pointwise, node.users)):
            x, a, b = node.args
            with graph.inserting_before(node):
                product = graph.call_function(aten.mm.default, (a, b))
                total = graph.call_function(aten.add.Tensor, (x, product))
            product.meta, total.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())
