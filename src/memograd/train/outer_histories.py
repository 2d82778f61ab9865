"""Tensors that come to a step with a history: PyTorch's backward pass goes on through it, that of a step ends at them.
Where the optimizer trains what lies behind, a step would leave out a part of its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from memograd._torch import nodes_behind
from memograd.adjoint.activity import active_nodes
from memograd.errors import GraphError
from memograd.graph.graph import Graph


def refuse_histories(leaves: Iterable[Any], trained: Iterable[nn.Parameter]) -> None:
    """Raises GraphError where an argument was computed from one of the parameters that are ``trained``."""
    for k, x in enumerate(leaves):
        if isinstance(x, torch.Tensor) and x.grad_fn is not None:
            _refuse(x, f"argument {k} of the step", trained)


def refuse_held_histories(forward: Graph, trained: Iterable[nn.Parameter]) -> None:
    """The same for what the model holds, where the loss has a derivative by it."""
    held = {
        node: entry
        for node, entry in zip(forward.placeholders, forward.inputs, strict=True)
        if entry.tensor is not None and entry.tensor.grad_fn is not None
    }
    for node in active_nodes(held, forward.results[:1]) if held else ():
        if node in held:
            _refuse(held[node].tensor, repr(held[node].name), trained)


def _refuse(tensor: Any, name: str, trained: Iterable[nn.Parameter]) -> None:
    wanted = set(map(id, trained))
    for node in nodes_behind([tensor]):
        if id(getattr(node, "variable", None)) in wanted:
            raise GraphError(
                f"{name} was computed outside of the step from a parameter of shape {list(node.variable.shape)} that "
                "the optimizer trains: its gradient by this way would be left out. Compute it inside, or detach it"
            )
