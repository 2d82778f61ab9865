"""The eager backend on a graph with convolutions by the fastest algorithm."""

from __future__ import annotations

from memograd.graph.graph import Graph
from memograd.run.convolutions.fastest import Fastest
from memograd.run.eager import Eager


class Convolutions(Eager):
    """Eager, with convolutions that choose their algorithm by measuring.

    Attributes:
        fastest: who chose.
    """

    name = "convolutions"

    def __init__(self, graph: Graph) -> None:
        self.fastest = Fastest()
        super().__init__(graph)
        self.how = "; ".join(filter(None, [self.fastest.said, self.how]))

    def rewritten(self, graph: Graph) -> Graph:
        return self.fastest.rewritten(graph)
