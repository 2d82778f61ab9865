"""What a program hands out: each result once, and of what it was given nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from memograd._torch import is_view_of_autograd, memory_of
from memograd.errors import CaptureError
from memograd.graph.entries import Output
from memograd.graph.graph import Graph

Tensor = torch.Tensor


class Results:
    """Each tensor of ``graph`` that is handed out once; what the program was given it hands back itself.

    Attributes:
        entries, nodes: of each, in order.
        places: of an output or left among all results of the graph: where it stands in ``entries``.
        passed: or which of the flat inputs it is.
        rewritten: of the new value of an argument, where that has a history: where it stands in ``entries``.
        mutations: positions of the other new values.
    """

    def __init__(self, graph: Graph) -> None:
        self.entries: list[Output] = []
        self.places: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        self.rewritten: dict[int, int] = {}
        at: dict[fx.Node, int] = {}
        written = {graph.results[k]: graph.outputs[k] for k in graph.positions("mutation")}
        for k, (node, entry) in enumerate(zip(graph.results, graph.outputs, strict=True)):
            write = written.get(node)
            if entry.kind == "mutation" and not entry.tracked:
                continue
            if entry.kind != "mutation" and write is not None and (write.tracked or not entry.tracked):
                node = graph.placeholder(write.name)  # the tensor itself, as it is after the write
            if node.op == "placeholder" and entry.kind != "mutation":
                self.passed[k] = graph.placeholders.index(node)
                continue
            if node not in at:
                at[node] = len(self.entries)
                self.entries.append(Output("output", f"result {at[node]}", entry.tracked))
            elif entry.tracked:
                self.entries[at[node]] = replace(self.entries[at[node]], tracked=True)
            (self.rewritten if entry.kind == "mutation" else self.places)[k] = at[node]
        self.nodes = list(at)
        self.mutations = [k for k in graph.positions("mutation") if k not in self.rewritten]


def refuse_histories(graph: Graph) -> None:
    """Refuse to leave a history in what the next call finds there, unless the caller passed it."""
    given = {i.name for i in graph.inputs if i.tensor is None}
    for entry in graph.outputs:
        if entry.kind == "mutation" and entry.tracked and entry.name not in given:
            raise CaptureError(
                f"the model writes to {entry.name!r} what depends on its parameters, so that this tensor has a "
                "history from then on: a wrapped model cannot hand that on. Write the detached value "
                "(copy_(h.detach()))"
            )


def apart(results: Sequence[Tensor], given: Sequence[Tensor]) -> Sequence[Tensor]:
    """``results``, each an object of its own: to autograd one that is an input means something else, and what a result
    and its detached twin have in common is their memory.

    A view whose memory nobody else sees is detached from what it is a view of: autograd lets a loop write to that, and
    to no view that comes out of a ``Function``. They share their version, so that whoever writes to what a derivative
    reads is told so. Where nothing of this is so ``results`` come back.
    """
    ids = {*map(id, given)}
    if len({*map(id, results), *ids}) == len(results) + len(ids) and not any(map(is_view_of_autograd, results)):
        return results
    own: list[Tensor] = []
    for result in results:
        own.append(result.detach() if id(result) in ids else result)
        ids.add(id(own[-1]))
    if not any([t._is_view() for t in own]):
        return own
    dense = {id(t): t for t in (*given, *own) if t.layout is torch.strided}
    memory = Counter([memory_of(t) for t in dense.values()])
    return [t.detach() if t._is_view() and memory[memory_of(t)] == 1 else t for t in own]
