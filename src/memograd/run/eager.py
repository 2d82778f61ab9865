"""The eager backend: straight-line Python of ATen calls, no autograd tape, each value freed at its last use, and behind
it one compiled pass over each parameter that updates it in place."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch

from memograd._torch import modes_of_others
from memograd.finite import TrippedError
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.largest_number import largest_number
from memograd.run import bernoulli  # noqa: F401  it enters its operator
from memograd.run.backend import Backend
from memograd.run.max_pool import compiled_pooling
from memograd.run.nearest import compiled_nearest
from memograd.run.pool.places import ANYWHERE, Places
from memograd.run.pool_first import pool_first
from memograd.run.updates.update import Updates, separate


class Eager(Backend):
    """Runs the text that ``graph.code`` shows, in memory that it uses again.

    Attributes:
        updates: of parameters, behind the function; None where all of them are part of it.
    """

    name = "eager"

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.places = Places()
        self.updates, self.how = None, ""
        if modes_of_others():  # they would not see what compiled loops do, nor operators that have changed places
            self.function = graph.function
            return
        rewritten = self.rewritten(graph)
        self.updates, self.how = separate(rewritten)
        self.function = rewritten.function if self.updates is None else self.updates.function
        if self.updates is not None:
            self._route_beside(graph, self.updates)

    def rewritten(self, graph: Graph) -> Graph:
        """``graph`` with operators for which there is something faster of the same results."""
        return compiled_nearest(compiled_pooling(pool_first(graph)))

    def _route_beside(self, graph: Graph, updates: Updates) -> None:
        """Where results stand among those of the function that updates run behind."""
        others = updates.others
        self._returned_beside = [others.index(i) for i in self.returned]
        self._writes_beside = self._writes_among(graph, others)

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        with ANYWHERE:
            values = run(self.function, flat)
            return values if self.updates is None else self.updates.compute(flat, values)

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        with self.places:
            values = run(self.function, flat)
            if self.updates is None:
                return self.commit(flat, values)
            return self._commit_beside(flat, values, self.updates)

    def _commit_beside(self, flat: Sequence[Any], values: Sequence[Any], updates: Updates) -> list[torch.Tensor]:
        """Like ``commit``, where parameters are still to be updated. There are such updates on the CPU only, where
        whether the step is finite is known at once."""
        if self.flag is not None and not isfinite(largest_number(updates.looked_at(flat, values))):
            raise TrippedError
        for inputs, outputs in self._writes_beside:
            torch._foreach_copy_([flat[i] for i in inputs], [values[o] for o in outputs])  # pyright: ignore
        updates.write(flat, values)
        return [values[i] for i in self._returned_beside]
