"""Where the graphs of a step run: on which backend, and within a memory budget by which plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memograd._torch import modes_of_others
from memograd.graph.graph import Graph
from memograd.memory.budget import parse_budget
from memograd.memory.plan import Plan
from memograd.pipeline import lowered, plan
from memograd.run.choose import Choice, choose, choose_planned, refuse_unknown
from memograd.train.arguments import refuse_seconds


@dataclass(eq=False)
class Chooser:
    """Chooses for each graph of a step.

    Attributes:
        backend, memory_budget, compile_seconds: see ``TrainStep``.
        allowed: bytes that a share ("50%") has meant for the largest step so far: a last, smaller batch may have them
            too.
    """

    backend: str
    memory_budget: int | str | Plan | None
    compile_seconds: float
    allowed: int = 0

    def __post_init__(self) -> None:
        refuse_unknown(self.backend)
        refuse_seconds(self.compile_seconds)
        if self.memory_budget is not None and not isinstance(self.memory_budget, Plan):
            parse_budget(self.memory_budget, 100)

    def __call__(self, graph: Graph, flat: list[Any]) -> Choice:
        """For a step; ``flat``: what the graph is run on."""
        if self.memory_budget is None:
            return choose(lowered(graph), flat, self.backend, self.compile_seconds)
        schedule = plan(graph, self.memory_budget, self.allowed, fused=self._fused())
        self.allowed = max(self.allowed, schedule.budget)
        return choose_planned(graph, schedule, self.backend)

    def _fused(self) -> bool:
        """Whether a plan may compile kernels, which modes around the step would not see."""
        return self.backend == "inductor" and not modes_of_others()

    def for_update(self, graph: Graph, flat: list[Any]) -> Choice:
        """For an update of several batches, which no plan was made for: of a given plan only its budget holds."""
        if not isinstance(self.memory_budget, Plan):
            return self(graph, flat)
        schedule = plan(graph, self.memory_budget.budget, fused=self._fused())
        return choose_planned(graph, schedule, self.backend)
