"""What a captured program has for results of its graph: what it returns, then what it wrote and what it left behind."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from memograd.graph.entries import Output, OutputKind
from memograd.ops import behind_writes
from memograd.tracing.inputs import Inputs
from memograd.tracing.tracer import Tracer
from memograd.tracing.turned import left_in


class Outputs:
    """The outputs of one capture.

    Attributes:
        entries: what each of them is.
        nodes: what computes them.
    """

    def __init__(self, tracer: Tracer, inputs: Inputs) -> None:
        self.tracer, self.inputs = tracer, inputs
        self.entries: list[Output] = []
        self.nodes: list[fx.Node] = []

    def returned(self, leaves: list[object]) -> None:
        """The tensors among the leaves of what the program returns."""
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        for k, tensor in enumerate(tensors):
            self._tensor("output", f"output_{k}" if len(leaves) > 1 else "output", tensor)

    def left(self, tensors: Iterable[torch.Tensor]) -> None:
        """The tensors that the program leaves in what others hold."""
        for k, tensor in enumerate(tensors):
            self._tensor("left", f"left {k}", tensor)

    def mutations(self) -> None:
        """The new values of the inputs and buffers that the program wrote to."""
        tracer, stood_for = self.tracer, self.inputs.stood_for
        entries = dict(zip(stood_for, self.inputs.entries, strict=True))
        for storage in tracer.storages():
            origin = storage.origin
            moved = tracer.moved.get(storage)
            if (storage.version or moved) and origin in entries:
                value = tracer.node_of(moved.tensor) if moved else storage.node
                tracked = stood_for[origin].grad_fn is not None and behind_writes(value) is not origin
                self._add("mutation", entries[origin].name, tracked, left_in(tracer, origin, value))

    def _tensor(self, kind: OutputKind, name: str, tensor: torch.Tensor) -> None:
        tensor = self.tracer.present(tensor)
        self._add(kind, name, tensor.requires_grad, self.tracer.node_of(tensor))

    def _add(self, kind: OutputKind, name: str, tracked: bool, node: fx.Node) -> None:
        self.entries.append(Output(kind, name, tracked))
        self.nodes.append(node)
