"""What a program is bound to, and whether that is still where it was: asked before each step."""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_
from typing import Any

import torch
from torch import optim

from memograd._torch import address
from memograd.graph.graph import Graph

_POINTER = torch.Tensor.data_ptr


class Held:
    """The tensors of a program's inputs, and those of the optimizer's state that it updates.

    A look takes the same objects in the same order for the same state, without hashing a parameter; only where one is
    another object is each looked up by its parameter.
    """

    def __init__(self, graph: Graph, state: Iterable[tuple[torch.Tensor, str, torch.Tensor]]) -> None:
        tensors = [i.tensor for i in graph.inputs if i.tensor is not None]
        self._sparse = [(t, address(t)) for t in tensors if t.layout is not torch.strided]
        self._strided = [t for t in tensors if t.layout is torch.strided]
        self._pointers = list(map(_POINTER, self._strided))
        self._state = list(state)
        self._names = [name for _, name, _ in self._state]
        self._tensors = [t for _, _, t in self._state]
        self._parameters: list[Any] = []
        self._tables: list[dict[str, Any]] = []
        self._of: list[dict[str, Any]] = []  # the table that each of these tensors is in

    def elsewhere(self, optimizer: optim.Optimizer) -> bool:
        """Whether another tensor has taken the place of one of these, or its memory lies elsewhere: the model was
        moved, a parameter's ``.data`` replaced, a state loaded."""
        return not (self._in_the_state(optimizer.state) and self._where_it_was())

    def _in_the_state(self, state: dict[Any, dict[str, Any]]) -> bool:
        if not self._state:
            return True
        known = len(state) == len(self._parameters)
        if known and all(map(is_, state, self._parameters)) and all(map(is_, state.values(), self._tables)):
            return all(map(is_, map(dict.get, self._of, self._names), self._tensors))
        if any(p not in state or state[p].get(k) is not t for p, k, t in self._state):
            return False
        self._parameters, self._tables = list(state), list(state.values())
        self._of = [state[p] for p, _, _ in self._state]
        return True

    def _where_it_was(self) -> bool:
        try:
            return list(map(_POINTER, self._strided)) == self._pointers and all(
                address(t) == at for t, at in self._sparse
            )
        except RuntimeError:  # another kind of tensor by now, which has no address
            return False


def tensors_in(optimizer: optim.Optimizer) -> list[tuple[torch.Tensor, str, torch.Tensor]]:
    """Every tensor of the optimizer's state, with its parameter and its name."""
    return [
        (p, key, tensor)
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
        for key, tensor in optimizer.state[p].items()
        if isinstance(tensor, torch.Tensor)
    ]
