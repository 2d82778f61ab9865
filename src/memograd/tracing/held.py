"""The tensors that a backward will come upon, as operands of its call: what was put on ``ctx``, and what objects and
closures lead to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from memograd._torch import without_modes
from memograd.errors import CaptureError
from memograd.tracing.operands import Hidden, Place, Ref
from memograd.tracing.provenance import caller
from memograd.tracing.reachable import reachable
from memograd.tracing.tracer import Tracer


class Held:
    """Operands of one call.

    Args:
        refs: the tensors that are operands already, by id.

    Attributes:
        nodes, places: of the saved operands.
        hidden_nodes: of the hidden ones.
    """

    def __init__(self, tracer: Tracer, refs: dict[int, Ref]) -> None:
        self.tracer = tracer
        self.refs = refs
        self.nodes: list[fx.Node] = []
        self.places: list[Place] = []
        self.hidden_nodes: list[fx.Node] = []
        self.hidden: list[Hidden] = []
        self.foreign: list[tuple[torch.Tensor, Ref]] = []
        self.with_history: dict[int, torch.Tensor] = {}

    def ref(self, tensor: torch.Tensor) -> Any:
        """What stands for ``tensor`` on ``ctx``: itself, where it has a history that the backward will run through."""
        if id(tensor) in self.with_history:
            return tensor
        return self._operand(tensor)

    def _operand(self, tensor: torch.Tensor) -> Ref:
        if id(tensor) not in self.refs:
            with without_modes():
                stand_in = self.tracer.stand_in(tensor)
            node = self.tracer.node_of(stand_in)
            if tensor.requires_grad and tensor.is_leaf and node.op == "placeholder":
                self._hide(tensor, users=True)
            else:
                self.refs[id(tensor)] = Ref("saved", len(self.nodes))
                self.nodes.append(node)
                self.places.append(Place(tensor.requires_grad, tensor.is_leaf, self.tracer.is_given(stand_in)))
        return self.refs[id(tensor)]

    def keep_history(self, since: fx.Node | None, count: int, roots: list[Any], of: set[fx.Node] | None = None) -> None:
        """Where ``forward`` turned grad mode on and kept what it computed so, the backward will run autograd through
        that. Then every tensor that takes part stays itself, since autograd knows it by that.

        Args:
            since, count: the last node and the number of tensors before ``forward``.
            roots: what it put on ``ctx``.
            of: no other nodes than these.
        """
        new = self.tracer.seen_since(count)
        if not any(t.requires_grad and id(t) in new and id(t) not in self.refs for t in reachable(*roots)):
            return
        nodes: set[fx.Node] = set()
        for node in reversed(self.tracer.graph.nodes):
            if node is since:
                break
            if of is None or node in of:
                nodes.update(n for n in (node, *node.all_input_nodes) if of is None or n in of)
        self.with_history = self.tracer.standing_for(nodes)
        for tensor in self.with_history.values():
            if tensor.requires_grad and tensor.is_leaf and id(tensor) not in new:
                self._hide(tensor, users=False)
            else:
                self.foreign.append((tensor, self._operand(tensor)))

    def reach(self, tensors: Iterable[torch.Tensor]) -> None:
        """The backward leads to ``tensors``."""
        for tensor in tensors:
            if id(tensor) in self.with_history:
                continue
            if id(tensor) in self.tracer.turned:
                raise CaptureError(
                    f"a backward or a hook at {' ('.join(caller())}) reads a tensor that was turned in place (t_, "
                    "unsqueeze_) while there were views of its memory; use t or unsqueeze, which return a view"
                )
            if self.tracer.is_own(tensor):
                self.foreign.append((tensor, self._operand(tensor)))
            elif tensor.requires_grad and tensor.is_leaf and id(tensor) not in self.refs:
                self._hide(tensor, users=True)

    def _hide(self, tensor: torch.Tensor, users: bool) -> None:
        with without_modes():
            stand_in = self.tracer.stand_in(tensor)
        ref = self.refs.get(id(stand_in))
        if ref is None or ref.where == "saved":
            ref = Ref("hidden", len(self.hidden_nodes))
            self.hidden_nodes.append(self.tracer.node_of(stand_in))
        self.refs[id(tensor)] = self.refs[id(stand_in)] = ref
        self.hidden.append(Hidden(tensor, ref, users))

    def operands(self, inputs: list[torch.Tensor]) -> dict[str, Any]:
        """What a call is told."""
        places = {
            "inputs": [Place(x.requires_grad, x.is_leaf, self.tracer.is_given(x)) for x in inputs],
            "saved": self.places,
        }
        return {"places": places, "hidden": self.hidden, "foreign": self.foreign}
