"""Every schedule found for a problem is remembered, so that more budget never costs more than less did.

The search is a heuristic: asked for 60 % it may, by luck, find something cheaper than it found for 55 %, or the other
way round. What was found for less memory fits more of it, so the answer is always the cheapest of all that is known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from memograd.memory.bounds.certificate import Bound, any_order_bound, lower_bound
from memograd.memory.bounds.cuts import cuts_of, least_bytes, necessary_order
from memograd.memory.problem import Problem, simulate
from memograd.memory.search.chain import chain
from memograd.memory.search.solve import EFFORT, LARGE, SMALL, fits, solve

_PROBLEMS = 16  # how many are remembered
QUICK = EFFORT // 8
# first a quick search, then the whole one, each where the certificate leaves room of more than this share of the cost
_EFFORTS = ((QUICK, 0.0005), (EFFORT, 0.005))
THOROUGH = ((2 * EFFORT, 0.0),)  # for what is planned for its own sake, not on the way to something else
_CLOSE = 0.01  # the least budget is searched to this share of its distance from the proven floor
_ROUNDS = 8  # of that search at most


@dataclass
class Solutions:
    """The schedules of one problem: (peak in bytes, cost, schedule), and what is proved about it."""

    problem: Problem
    schedules: list[tuple[int, float, list[int]]] = field(default_factory=list)
    bounds: dict[int, Bound] = field(default_factory=dict)  # by budget
    quick_bounds: dict[int, float] = field(default_factory=dict)
    lean: tuple[int, list[int]] = (0, [])  # the least peak and its schedule: once told to a user, it stays

    @cached_property
    def proven_floor(self) -> int:
        """Bytes that every schedule needs."""
        return least_bytes(cuts_of(self.problem.lightest, necessary_order(self.problem)))

    def add(self, schedule: Sequence[int] | None) -> None:
        if schedule is not None:
            usage = simulate(self.problem, schedule)
            self.schedules.append((usage.peak, usage.cost, list(schedule)))

    def within(self, budget: int) -> tuple[float, list[int]] | None:
        """The cheapest known schedule within ``budget`` and its extra cost; of equally cheap ones the leanest."""
        fitting = [(cost, peak, s) for peak, cost, s in self.schedules if peak <= budget]
        if not fitting:
            return None
        cost, _, schedule = min(fitting)
        return cost - self.problem.total_cost, schedule

    def bound(self, budget: int) -> Bound:
        """What every schedule within ``budget`` costs at least."""
        if budget not in self.bounds:
            effort = 1 if len(self.problem.cost) <= LARGE else 0
            self.bounds[budget] = lower_bound(self.problem, budget, effort)
        return self.bounds[budget]

    def search(self, budget: int, efforts: Sequence[tuple[int, float]] | None = None) -> list[int] | None:
        """The cheapest schedule within ``budget`` after searching for one; None if none was found.

        The dynamic program over a chain of stages gives a first schedule at once, for problems of any size. Then come
        searches, each (effort, share): of this effort if more than this share of the step's cost may be left to gain.
        """
        if budget < max(self.lean[0], self.proven_floor):
            return None
        best, first = self.within(budget), None
        if best is None or not self._near(best[0], budget, 0.0):
            first = chain(self.problem, budget)
            self.add(first)
            best = self.within(budget)
        for effort, share in efforts or _EFFORTS:
            if best is not None and self._near(best[0], budget, share):
                break
            starts = [best[1]] if best else []
            if first is not None and first not in starts:
                starts.append(first)
            self.add(solve(self.problem, budget, effort, starts))
            best = self.within(budget)
        return best[1] if best else None

    def _near(self, extra: float, budget: int, share: float) -> bool:
        """Whether hardly anything is left to gain; a bound, not the strongest, is computed only where it matters."""
        total = self.problem.total_cost
        if extra <= 1e-9 * total:
            return True
        if budget not in self.quick_bounds:
            self.quick_bounds[budget] = any_order_bound(self.problem, budget)
        return extra - self.quick_bounds[budget] <= share * total

    def leanest(self) -> tuple[int, list[int]]:
        """The least peak that a bisection reaches, and its schedule. From then on that peak is the floor.

        Costs, which are measured, have no say in the bisection, nor has what was asked for before: the same step has
        the same floor, unless something leaner was found in passing.
        """
        if not self.lean[1]:
            problem = replace(self.problem, cost=(1.0,) * len(self.problem.cost))
            steps = QUICK * (len(problem.cost) + SMALL)
            low, best = self.proven_floor, list(range(len(problem.cost)))
            for _ in range(_ROUNDS):
                peak = simulate(problem, best).peak
                if peak - low <= _CLOSE * peak:
                    break
                middle = (low + peak) // 2
                first = chain(problem, middle)
                tried = [first] if first else fits(problem, best, middle, steps)
                best = min([best, *tried], key=lambda s: simulate(problem, s).peak)
                if simulate(problem, best).peak > middle:
                    low = middle
            self.add(best)
            peak, _, schedule = min(self.schedules)
            self.lean = peak, schedule
        return self.lean


_SOLUTIONS: OrderedDict[Problem, Solutions] = OrderedDict()


def solutions_of(problem: Problem, starts: Sequence[Sequence[int]]) -> Solutions:
    """What is known of ``problem``; at first ``starts`` and the order in which its operators are numbered."""
    if problem not in _SOLUTIONS:
        _SOLUTIONS[problem] = Solutions(problem)
        for start in (range(len(problem.cost)), *starts):
            _SOLUTIONS[problem].add(start)
    _SOLUTIONS.move_to_end(problem)
    while len(_SOLUTIONS) > _PROBLEMS:
        _SOLUTIONS.popitem(last=False)
    return _SOLUTIONS[problem]
