"""How a wrapped model runs: within which memory budget, on which backend, and who looks at its gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memograd.cautions import caution
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.pipeline import plan

_UNPLANNED = (
    "with create_graph=True it runs from the model's inputs again, without a plan. Compute the inner derivative in the "
    "model's forward (torch.autograd.grad there), and it is a part of the graph that is planned",
    "a batch of cotangents (is_grads_batched, vmap) takes the memory of all of them at once. Pull them back one after "
    "the other",
)


@dataclass(eq=False)
class Settings:
    """How the programs of one model run.

    Attributes:
        memory_budget, backend: see ``wrap``.
        watch: who looks at gradients before they are handed on (``watch.Watch``); None: nobody.
        said: what a user was told once already.
        allowed: bytes that a share ("50%") has meant for the largest program so far: smaller ones may have them too.
    """

    memory_budget: int | str | Plan | None = None
    backend: str = "auto"
    allowed: int = 0
    watch: Any = None
    said: set[bool] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.backend in ("native", "convolutions") and self.memory_budget is not None:
            budget = f"a memory budget of {self.memory_budget!r}"
            reason = f"{self.backend} decides itself what it allocates and cannot promise {budget}"
            self.backend = "eager"
            caution(f"running on the eager backend: {reason}")

    def plan(self, graph: Graph) -> Plan:
        """A schedule of ``graph`` within the budget."""
        assert self.memory_budget is not None
        schedule = plan(graph, self.memory_budget, self.allowed, fused=self.backend == "inductor")
        self.allowed = max(self.allowed, schedule.budget)
        return schedule

    def say_unplanned(self, many: bool) -> None:
        """Tell the user, once, that the budget does not cover these gradients; ``many``: because they are those of a
        batch of cotangents, else because somebody differentiates them."""
        if self.memory_budget is None or many in self.said:
            return
        self.said.add(many)
        caution(f"memory_budget={self.memory_budget!r} does not cover this derivative: {_UNPLANNED[many]}")
