"""How a wrapped model runs: within which memory budget, on which backend, and who looks at its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.pipeline import plan
from memograd.run.inductor import compiled


@dataclass(eq=False)
class Settings:
    """How the programs of one model run.

    Attributes:
        memory_budget, backend: see ``wrap``.
        watch: who looks at gradients before they are handed on (``watch.Watch``); None: nobody.
        allowed: bytes that a share ("50%") has meant for the largest program so far: smaller ones may have them too.
    """

    memory_budget: int | str | Plan | None = None
    backend: str = "auto"
    allowed: int = 0
    watch: Any = None

    def plan(self, graph: Graph) -> Plan:
        """A schedule of ``graph`` within the budget."""
        assert self.memory_budget is not None
        made = plan(graph, self.memory_budget, self.allowed, fused=self.backend == "inductor")
        self.allowed = max(self.allowed, made.budget)
        return made

    @property
    def build(self) -> Callable[[Graph], Callable[..., Any]] | None:
        """Makes of a graph what the backend runs; None where that is the graph's own text."""
        return compiled if self.backend == "inductor" else None
