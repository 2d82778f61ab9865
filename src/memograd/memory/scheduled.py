"""A schedule of one graph within a byte budget, and what follows from it: its peak, what it computes again, what it
keeps, and how far from optimal it can be. Whoever shows a plan reads this."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from memograd.memory.problem import Problem, Usage, simulate


@dataclass(frozen=True)
class Scheduled:
    """What to keep and what to compute again.

    Attributes:
        budget: bytes allowed: parameters, buffers, inputs, activations, gradients, optimizer state and workspace.
        schedule: the operators in order of computation, as numbers into ``operators``.
        operators: their names; ``modules``: the paths of the modules they belong to.
        phases: ``forward``, ``backward``, ``update`` (the optimizer's), or ``write`` (of a new value into an input).
        unplanned: the schedule without a budget.
        bound: seconds that every schedule within the budget, in any order, must spend on recomputation (proven); None
            until someone asks for it.
        fingerprint: identifies the graph that the plan is for.
        measured: whether costs were measured on ``device`` (else modelled for some operators).
    """

    budget: int
    schedule: tuple[int, ...]
    operators: tuple[str, ...]
    modules: tuple[str, ...]
    phases: tuple[str, ...]
    unplanned: tuple[int, ...]
    problem: Problem
    bound: float | None = field(compare=False)
    fingerprint: str
    device: str
    measured: bool
    code: str = field(repr=False)

    @cached_property
    def usage(self) -> Usage:
        return simulate(self.problem, self.schedule)

    @cached_property
    def unplanned_usage(self) -> Usage:
        return simulate(self.problem, self.unplanned)

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any moment of the planned step."""
        return self.usage.peak

    @property
    def unplanned_bytes(self) -> int:
        """The same for the step without a plan."""
        return self.unplanned_usage.peak

    @property
    def floor_bytes(self) -> int:
        """No schedule needs less than this."""
        return self.problem.lightest.floor

    @property
    def extra_seconds(self) -> float:
        """Seconds a step that the plan spends on computing things again."""
        return max(0.0, self.usage.cost - self.problem.total_cost)

    @property
    def overhead(self) -> float:
        """``extra_seconds`` as a share of what the unplanned step's operators take."""
        return self.extra_seconds / self.problem.total_cost if self.problem.total_cost else 0.0

    @property
    def lower_bound(self) -> float:
        """Seconds: no plan within this budget spends less on recomputation, in whatever order."""
        return min(self.proven, self.extra_seconds)

    @cached_property
    def proven(self) -> float:
        """``bound``, computed where it is not known yet: seconds of work, which only readers of the plan wait for."""
        if self.bound is not None:
            return self.bound
        from memograd.memory.search.solutions import solutions_of  # it loads the compiled search

        return solutions_of(self.problem, []).bound(self.budget).any_order

    @property
    def gap(self) -> float:
        """How much of ``overhead`` a perfect plan could save at most: 0.03 is three points."""
        return self.overhead - (self.lower_bound / self.problem.total_cost if self.problem.total_cost else 0.0)

    @cached_property
    def again(self) -> dict[str, int]:
        """Operators that run more than once: name -> how many extra runs."""
        return {self.operators[k]: n - 1 for k, n in sorted(Counter(self.schedule).items()) if n > 1}

    @cached_property
    def kept(self) -> dict[str, int]:
        """Operators of the forward pass whose first results are read by the backward pass, or to compute something
        again: name -> bytes."""
        runs: Counter[int] = Counter()
        waiting: set[int] = set()
        for operator in self.schedule:
            if runs[operator] or self.phases[operator] == "backward":
                waiting.update(v for v in self.problem.reads[operator] if runs[self.problem.producer[v]] == 1)
            runs[operator] += 1
        sizes: Counter[str] = Counter()
        for value in sorted(waiting):
            producer = self.problem.producer[value]
            if self.phases[producer] == "forward":
                sizes[self.operators[producer]] += self.problem.size[value]
        return dict(sizes)
