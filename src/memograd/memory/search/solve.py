"""The planner: a schedule within a byte budget at the least extra cost found, from several starts.

Orders without any recomputation are tried first, for if one fits, nothing is cheaper. The search starts hot from the
given order and from the leanest order found; if nothing fits, schedules that only try to fit come next. What is best so
far is improved once more at a low temperature. In large problems only this last search is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from memograd.memory.problem import Problem, simulate
from memograd.memory.search.anneal import anneal, fit, reorder
from memograd.memory.search.compiled import COMPILED

EFFORT = 800 if COMPILED else 20  # steps of the search for each operator
SMALL, MOST = 500, 750  # operators: smaller problems are over soon and get the steps of larger ones, and none gets more
MEDIUM, LARGE = 600, 1500  # operators; beyond, the number of steps falls as each of them takes longer
T = TypeVar("T")


def solve(
    problem: Problem, budget: int, effort: int = EFFORT, starts: Sequence[Sequence[int]] = ()
) -> list[int] | None:
    """The cheapest schedule found whose peak is at most ``budget`` bytes; None if none was found.

    The same arguments give the same schedule. ``effort`` is the number of steps of the search for each operator;
    ``starts`` are schedules to start from (the dynamic program's, say), besides the order in which the operators are
    numbered.
    """
    base = list(range(len(problem.cost)))
    best = _cheapest(problem, [base, *starts], budget)
    if budget < problem.lightest.floor or _cannot_improve(problem, best):
        return best
    if len(base) > LARGE:
        steps = effort * LARGE * LARGE // len(base) // 2
        return _cheapest(problem, [best, *_polished(problem, best or base, budget, steps)], budget)
    steps = effort * min(len(base) + SMALL, MOST) * min(len(base), MEDIUM) // max(len(base), 1)
    orders = _together([partial(reorder, problem, base, budget, steps // 10, heat=heat) for heat in (1.0, 10.0)])
    best = _cheapest(problem, [*orders, best], budget)
    if best is None or not _cannot_improve(problem, best):
        lean = min(orders, key=lambda order: simulate(problem, order).peak)
        ways = [partial(anneal, problem, s, budget, steps // 4, seed) for seed, s in enumerate((base, lean), start=1)]
        ways += [partial(anneal, problem, s, budget, steps // 4, heat=0.1) for s in starts]
        best = _cheapest(problem, [best, *_together(ways)], budget)
        best = best or _fitting(problem, [base, lean, *starts], budget, steps // 4)
    if best is None or _cannot_improve(problem, best):
        return best
    return _cheapest(problem, [best, *_polished(problem, best, budget, steps // 3)], budget)


def _polished(problem: Problem, start: Sequence[int], budget: int, steps: int) -> list[list[int] | None]:
    """What two searches at low temperature make of it: which of them gets further is luck."""
    return _together([partial(anneal, problem, start, budget, steps, seed, heat=0.1) for seed in (1, 2)])


def fits(problem: Problem, lean: Sequence[int], budget: int, steps: int) -> list[list[int]]:
    """Schedules that exceed the budget less than ``lean``, if possible not at all: one from there, one from afresh."""
    starts = ((lean, 0.3), (range(len(problem.cost)), 1.0))
    return _together([partial(fit, problem, start, budget, steps, heat=heat) for start, heat in starts])


def _together(searches: Sequence[Callable[[], T]]) -> list[T]:
    """The results of independent searches, side by side on several cores: compiled code does not hold Python's lock."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return [running.result() for running in [pool.submit(search) for search in searches]]


def _fitting(problem: Problem, starts: Sequence[Sequence[int]], budget: int, steps: int) -> list[int] | None:
    """A schedule within the budget at nearly any cost, from the first start and temperature that lead to one."""
    for heat in (0.3, 3.0):
        for start in starts:
            schedule = _cheapest(problem, [fit(problem, start, budget, steps, heat=heat)], budget)
            if schedule is not None:
                return schedule
    return None


def _cheapest(problem: Problem, schedules: Sequence[Sequence[int] | None], budget: int) -> list[int] | None:
    """The cheapest of the schedules that the byte-exact simulation accepts."""
    best, least = None, 0.0
    for schedule in schedules:
        if schedule is None:
            continue
        usage = simulate(problem, schedule)
        if usage.peak <= budget and (best is None or usage.cost < least):
            best, least = list(schedule), usage.cost
    return best


def _cannot_improve(problem: Problem, schedule: Sequence[int] | None) -> bool:
    return schedule is not None and sum(problem.cost[v] for v in schedule) <= problem.total_cost * (1 + 1e-12)
