"""Values that a program makes itself, out of nothing that could be different next time: a causal mask, say.

Code that looks at them (``if (mask == causal).all()`` in ``nn.TransformerEncoder``) decides the same whenever it runs,
so the decision may be taken while the graph is captured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd._torch import pytree, without_modes
from memograd.graph.interpreter import interpret
from memograd.ops import MARKS, WRITES, is_random
from memograd.tracing.operator_kinds import MEMORY

aten = torch.ops.aten
_OVERWRITING = (aten.fill, aten.zero, aten.copy)  # all of their first operand
_LARGEST = 1 << 24  # elements of one tensor: what is larger was not made to be looked at


def constant(node: fx.Node) -> torch.Tensor | None:
    """What ``node`` is: a number, or several (lengths of sequences); None where it depends on an input or on random
    numbers."""
    node = _seen(node)
    if _packet(node) in MEMORY:
        return None
    needed: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in needed:
            if current.op != "call_function" or is_random(current) or _large(current.meta["val"]):
                return None
            read = [_seen(n) for n in current.all_input_nodes]
            if any(_packet(n) in MEMORY for n in read) and _packet(current) not in _OVERWRITING:
                return None  # what happened to be there
            needed.add(current)
            stack += read
    values: dict[fx.Node, Any] = {}
    with without_modes(), torch.no_grad():
        for _ in interpret((n for n in node.graph.nodes if n in needed), values, behind=_seen):
            pass
        return values[node]


def _seen(node: fx.Node) -> fx.Node:
    """The node behind our marks, which are identities on values."""
    while node.target in MARKS:
        node = node.args[1 if node.target in WRITES else 0]  # pyright: ignore[reportAssignmentType]
    return node


def _packet(node: fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _large(value: Any) -> bool:
    return any(isinstance(t, torch.Tensor) and t.numel() > _LARGEST for t in pytree.tree_leaves(value))
