"""Values that a program makes itself, out of nothing that could be different next time: a causal mask, say.

Code that looks at them (``if (mask == causal).all()`` in ``nn.TransformerEncoder``) decides the same whenever it runs,
so the decision may be taken while the graph is captured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd._torch import pytree, without_modes
from memograd.ops import is_random

_LARGEST = 1 << 24  # elements of one tensor: what is larger was not made to be looked at


def constant(node: fx.Node) -> bool | int | float | complex | None:
    """The number that ``node`` is; None where it depends on an input or on random numbers."""
    needed: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in needed:
            if current.op != "call_function" or is_random(current) or _large(current.meta["val"]):
                return None
            needed.add(current)
            stack += current.all_input_nodes
    values: dict[fx.Node, Any] = {}
    with without_modes(), torch.no_grad():
        for current in node.graph.nodes:
            if current in needed:
                target: Any = current.target
                args, kwargs = fx.map_arg((current.args, current.kwargs), values.__getitem__)
                values[current] = target(*args, **kwargs)
        return values[node].item()


def _large(value: Any) -> bool:
    return any(isinstance(t, torch.Tensor) and t.numel() > _LARGEST for t in pytree.tree_leaves(value))
