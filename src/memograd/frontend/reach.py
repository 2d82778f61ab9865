"""Which inputs of a program get a gradient, be it zero, and which get none, as autograd has it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx

from memograd.adjoint.activity import active_nodes
from memograd.frontend.answers import Question
from memograd.frontend.boundary import Call
from memograd.graph.graph import Graph


class Reach:
    """How far back gradients go from some of ``results``, nodes of ``graph``; ``wrt``: inputs that may have any."""

    def __init__(self, graph: Graph, wrt: Collection[str], results: Sequence[fx.Node]) -> None:
        self._graph, self._wrt, self._results = graph, wrt, results
        self._known: dict[frozenset[int], frozenset[int]] = {}

    def of(self, used: Collection[int]) -> frozenset[int]:
        """The flat inputs that get a gradient, be it zero, where these results are used; the others get none, which
        an optimizer takes for something else."""
        used = frozenset(used)
        if used not in self._known:
            nodes = self._graph.placeholders
            sources = [n for n, i in zip(nodes, self._graph.inputs, strict=True) if i.name in self._wrt]
            active = set(active_nodes(sources, [self._results[k] for k in used]))
            self._known[used] = frozenset(k for k, n in enumerate(nodes) if n in active)
        return self._known[used]

    def as_autograd(self, call: Call, question: Question, gradients: dict[int, Any]) -> None:
        """Zeros, or none, where PyTorch has these."""
        for k in question[1]:
            gradients[k] = self.one_as_autograd(call, question, k, gradients.get(k))

    def one_as_autograd(self, call: Call, question: Question, k: int, gradient: Any) -> Any:
        """The same for one input."""
        used, wanted = question
        if k not in wanted or max(used) >= len(self._results) or (gradient is None) == (k not in self.of(used)):
            return gradient
        return torch.zeros_like(call.flat[k]) if gradient is None else None
