"""The derivative of a graph, appended to a copy of it: the recursion run on symbolic tensors.

seeds (1 for a loss, else a cotangent that is asked for) -> the recursion -> outputs of kind ``gradient``
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from memograd.adjoint.activity import active_nodes
from memograd.adjoint.products import count_products
from memograd.adjoint.recursion import Recursion
from memograd.adjoint.selection import inputs_of, targets_of
from memograd.errors import ProductLimitError
from memograd.graph.entries import Input, Output, OutputKind
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer


def differentiate(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    memoize: bool = True,
    of: str | None = None,
    cotangents: OutputKind | None = None,
    among: Collection[str] | None = None,
    limit: int = 100_000,
) -> Graph:
    """The graph that computes ``graph``'s results and the gradients of its loss; ``memograd.differentiate`` says what
    the arguments mean and what is raised."""
    names = inputs_of(graph, wrt)
    if not memoize and (naive := count_products(graph, names, of, cotangents, among).naive) > limit:
        raise ProductLimitError(
            f"the naive recursion would form {naive} products, more than limit={limit}; use memoize=True"
        )
    derivation = Derivation(graph, names, targets_of(graph, of, cotangents, among))
    with derivation.tracer.rules():
        seeds = derivation.seeds(bool(cotangents))
        recursion = Recursion(derivation.tracer, seeds, set(derivation.active), memoize)
        if memoize:
            for v in reversed(derivation.active):
                recursion.adjoint(v)
        return derivation.finished(
            {name: recursion.adjoint(v) for name, v in derivation.sources.items() if v in recursion.active}
        )


class Derivation:
    """A copy of ``graph``, to which its derivative is being appended.

    Attributes:
        tracer: writes nodes there, while ``tracer.rules()`` is on.
        sources: the inputs of interest, by name.
        targets: the results to differentiate.
        active: the nodes on a path from one to the other, in order of computation.
    """

    def __init__(self, graph: Graph, names: Sequence[str], targets: Sequence[int]) -> None:
        self.graph = graph
        self.names = tuple(names)
        self.fx, where = graph.copy()
        self.sources = {name: where[graph.placeholder(name)] for name in names}
        self.results = [where[n] for n in graph.results]
        self.targets = targets
        self.active = active_nodes(list(self.sources.values()), [self.results[i] for i in targets])
        self.inputs = list(graph.inputs)
        self.tracer = Tracer(self.fx)
        self.tracer.adopt = self._constant

    def seeds(self, cotangents: bool = False) -> dict[fx.Node, Any]:
        """The adjoints of the results: 1, or further inputs."""
        seeds: dict[fx.Node, Any] = {}
        for i in self.targets:
            result = self.results[i]
            seed = self._cotangent(i) if cotangents else self._one(result)
            seeds[result] = seed if result not in seeds else seeds[result] + seed
        return seeds

    def finished(self, gradients: Mapping[str, Any]) -> Graph:
        """The graph that also returns ``gradients``, by name of the input; None where nothing depends on it."""
        nodes = {name: self.tracer.node_of(g) for name, g in gradients.items() if g is not None}
        self.fx.output(tuple([*self.results, *nodes.values()]))
        outputs = (*self.graph.outputs, *(Output("gradient", name) for name in nodes))
        return self.graph.with_fx(self.fx, inputs=tuple(self.inputs), outputs=outputs, wrt=self.names).verify()

    def _one(self, result: fx.Node) -> torch.Tensor:
        with self.tracer.about(result):
            return torch.ones_like(self.tracer.input(result))

    def _cotangent(self, position: int) -> torch.Tensor:
        """A further input for the adjoint of a result: contiguous, whatever the strides of the result itself."""
        name, value = self.graph.outputs[position].name, self.results[position].meta["val"]
        self.inputs.append(Input("cotangent", f"cotangent of {name}", of=name))
        with self.tracer.pause():
            like = torch.empty(value.shape, dtype=value.dtype, device=value.device)
        return self.tracer.placeholder(f"cotangent_{name}", like)

    def _constant(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the user's that somebody's own backward reads: perhaps an input already, or one more."""
        for entry, node in zip(self.inputs, self.fx.find_nodes(op="placeholder"), strict=True):
            if entry.tensor is tensor:
                return self.tracer.input(node)
        names = {i.name for i in self.inputs}
        name = next(name for k in itertools.count() if (name := f"constant_{k}") not in names)
        self.inputs.append(Input("constant", name, tensor))
        return self.tracer.placeholder(name, tensor)
