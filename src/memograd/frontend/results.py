"""What a program hands out: each result once, and of what it was given nothing."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from memograd.errors import CaptureError
from memograd.graph.entries import Output
from memograd.graph.graph import Graph


class Results:
    """Each tensor of ``graph`` that is handed out once; what the program was given it hands back itself.

    Attributes:
        entries, nodes: of each, in order.
        places: of an output or left among all results of the graph: where it stands in ``entries``.
        passed: or which of the flat inputs it is.
    """

    def __init__(self, graph: Graph) -> None:
        self.entries: list[Output] = []
        self.places: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        at: dict[fx.Node, int] = {}
        written = {graph.results[k]: graph.placeholder(graph.outputs[k].name) for k in graph.positions("mutation")}
        for k, (node, entry) in enumerate(zip(graph.results, graph.outputs, strict=True)):
            if entry.kind == "mutation":
                continue
            if node in written and not entry.tracked:  # the tensor itself, as it is after the write
                node = written[node]
            if node.op == "placeholder":
                self.passed[k] = graph.placeholders.index(node)
                continue
            if node not in at:
                at[node] = len(self.entries)
                self.entries.append(Output("output", f"result {at[node]}", entry.tracked))
            elif entry.tracked:
                self.entries[at[node]] = replace(self.entries[at[node]], tracked=True)
            self.places[k] = at[node]
        self.nodes = list(at)


def refuse_histories(graph: Graph) -> None:
    """Refuse a write whose value autograd would go on from: what a program writes back has no history."""
    for entry in graph.outputs:
        if entry.kind == "mutation" and entry.tracked:
            raise CaptureError(
                f"the model writes to {entry.name!r} what depends on its parameters, so that this tensor has a "
                "history from then on: a wrapped model cannot hand that on. Write the detached value "
                "(copy_(h.detach())), or return the new one"
            )
