"""The backend of a plan: operator by operator, in the plan's order; what the plan computes again is computed again,
what it drops is freed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd import finite
from memograd.errors import BackendError
from memograd.finite import guarding, tripping
from memograd.graph.graph import Graph
from memograd.graph.printing import load
from memograd.graph.signature import run
from memograd.memory.plan import Plan
from memograd.run.backend import Backend
from memograd.run.pool.places import ANYWHERE, Places


class Planned(Backend):
    """Runs ``plan.code``: it writes mutations in place as soon as nobody needs the old value any more."""

    def __init__(self, graph: Graph, plan: Plan, name: str = "eager") -> None:
        super().__init__(graph)
        self.name = name
        self.plan = plan
        self.places = Places()
        self.function = load(plan.code, "step")
        device = graph.results[self.flag].meta["val"].device if self.flag is not None else None
        self.late = device if device is not None and finite.is_asynchronous(device) else None

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Results from inputs, beyond the budget: what the step writes to is copied first."""
        own = list(flat)
        for i in self.feedback.values():
            own[i] = flat[i].clone()
        with ANYWHERE:
            returned = iter(self._written(own))
        return tuple(own[self.feedback[o]] if o in self.feedback else next(returned) for o in range(self.count))

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        with self.places:
            return self._written(flat, self.late)

    def _written(self, flat: Sequence[Any], late: torch.device | None = None) -> list[torch.Tensor]:
        """``late``: the device that itself does not write what is not finite; else it is waited for."""
        try:
            if self.flag is None:
                return list(run(self.function, flat))
            with tripping() if late is None else guarding(self._guard_on(late)):  # it writes on the way
                return list(run(self.function, flat))
        except AssertionError as error:
            if not _of_a_kernel(error):
                raise
            reason = str(error).splitlines()[0]
            raise BackendError(
                f"a fused kernel was compiled for other operands: {reason}; use backend='eager'"
            ) from error


def _of_a_kernel(error: AssertionError) -> bool:
    """Whether it comes from the check of operands that Inductor writes in front of its kernels."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "assert_size_stride" in trace.tb_frame.f_globals
