"""Every schedule found for a problem is remembered, so that more budget never costs more than less did.

The search is a heuristic: asked for 60 % it may, by luck, find something cheaper than it found for 55 %, or the other
way round. What was found for less memory fits more of it, so the answer is always the cheapest of all that is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from memograd.plan.bounds_cuts import least_bytes
from memograd.plan.problem import Problem, simulate
from memograd.plan.solve import EFFORT, solve

_PROBLEMS = 16  # how many are remembered
_CLOSE = 0.02  # the least budget is searched to this share of its distance from the proven floor


@dataclass
class Known:
    """The schedules of one problem: (peak in bytes, cost, schedule)."""

    problem: Problem
    found: list[tuple[int, float, list[int]]] = field(default_factory=list)
    failed: int = 0  # the largest budget, in bytes, for which nothing was found
    lean: tuple[int, list[int]] = (0, [])  # the least peak and its schedule: once told to a user, it stays

    def add(self, schedule: Sequence[int] | None) -> None:
        if schedule is not None:
            usage = simulate(self.problem, schedule)
            self.found.append((usage.peak, usage.cost, list(schedule)))

    def within(self, budget: int) -> list[int] | None:
        """The cheapest known schedule within ``budget``, of equally cheap ones the leanest."""
        fitting = [(cost, peak, s) for peak, cost, s in self.found if peak <= budget]
        return min(fitting)[2] if fitting else None

    def search(self, budget: int, effort: int = EFFORT) -> list[int] | None:
        """The cheapest schedule within ``budget`` after searching for one."""
        if budget < self.lean[0]:
            return None
        best = self.within(budget)
        if best is None or simulate(self.problem, best).cost > self.problem.total_cost:
            self.add(solve(self.problem, budget, effort, [best] if best else []))
            best = self.within(budget)
        if best is None:
            self.failed = max(self.failed, budget)
        return best

    def leanest(self) -> list[int]:
        """The schedule with the least peak that bisection finds. From then on its peak is the floor."""
        if self.lean[1]:
            return self.lean[1]
        low = max(least_bytes(self.problem), self.problem.floor)
        lean = min(self.found)
        while lean[0] - low > max(_CLOSE * lean[0], 1) and self.failed < lean[0] - 1:
            middle = (max(low, self.failed) + lean[0]) // 2
            self.search(middle, EFFORT // 4)
            low, lean = max(low, min(self.failed, middle)), min(self.found)
        self.lean = lean[0], lean[2]
        return lean[2]


_KNOWN: OrderedDict[Problem, Known] = OrderedDict()


def known(problem: Problem, starts: Sequence[Sequence[int]]) -> Known:
    """What is known of ``problem``; at first ``starts`` and the order in which its operators are numbered."""
    if problem not in _KNOWN:
        _KNOWN[problem] = Known(problem)
        for start in (range(len(problem.cost)), *starts):
            _KNOWN[problem].add(start)
    _KNOWN.move_to_end(problem)
    while len(_KNOWN) > _PROBLEMS:
        _KNOWN.popitem(last=False)
    return _KNOWN[problem]
