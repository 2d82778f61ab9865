"""Gradients of several batches for one update: graphs that add them up, and a graph that updates with the sums."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from memograd.graph.entries import Calling, Input, Output
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer
from memograd.train.appended import Appended
from memograd.train.carried import Carried

Tensor = torch.Tensor


def sum_name(name: str) -> str:
    """What the sum of the gradients of the parameter ``name`` is called in a graph."""
    return f"sum of gradients of {name}"


class Gather(Appended):
    """Appends ``sum ← sum + g / k`` for every gradient of a differentiated graph: what ``(loss / k).backward()`` adds
    to ``.grad``."""

    def __init__(self, joint: Graph, carried: Carried) -> None:
        super().__init__(joint)
        self.carried = carried
        self.share = 1 / carried.refinements.accumulate

    def append(self) -> Graph:
        """The graph of a batch: results, then mutations of buffers and sums."""
        self._start(takes_writes=False)
        parameters = {i.name: i.tensor for i in self.base.inputs if i.tensor is not None}
        sums = {name: self.carried.sum_of(parameters[name]) for name in self.gradients}
        with self.tracer.rules():
            for name, node in self.gradients.items():
                with self.tracer.labelled({"update_of": name}):
                    total = self._input(sum_name(name), sums[name])
                    self._mutation(sum_name(name), torch.add(total, self.tracer.input(node), alpha=self.share))
        return self._finish()


def collected(parameters: Iterable[Tensor], carried: Carried) -> Graph:
    """The graph whose gradients are the sums, for ``Update`` to go on from."""
    graph, names = fx.Graph(), carried.names
    tracer = Tracer(graph)
    inputs: list[Input] = []
    results: list[fx.Node] = []
    parameters = list(parameters)
    for p in parameters:
        name = names[p]
        for entry in (Input("parameter", name, p), Input("state", sum_name(name), carried.sum_of(p))):
            assert entry.tensor is not None
            text = "".join(c if c.isalnum() else "_" for c in entry.name)
            node = tracer.node_of(tracer.placeholder(text, entry.tensor))
            inputs.append(entry)
        results.append(node)  # the sum's
    graph.output(tuple(results))
    outputs = tuple(Output("gradient", names[p]) for p in parameters)
    calling = Calling(None, (), (), None, (), (), ())
    return Graph(graph, tuple(inputs), outputs, calling, wrt=tuple(o.name for o in outputs)).verify()
