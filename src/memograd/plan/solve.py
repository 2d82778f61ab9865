"""The planner: a schedule within a byte budget at the least extra cost found, from several starts."""

from __future__ import annotations

from collections.abc import Sequence

from memograd.plan.compiled import COMPILED
from memograd.plan.problem import Problem, simulate
from memograd.plan.search import anneal, reorder

EFFORT = 2000 if COMPILED else 20  # steps of the search for each operator


def solve(
    problem: Problem, budget: int, effort: int = EFFORT, starts: Sequence[Sequence[int]] = ()
) -> list[int] | None:
    """The cheapest schedule found whose peak is at most ``budget`` bytes; None if none was found.

    The same arguments give the same schedule. ``effort`` is the number of steps of the search for each operator;
    ``starts`` are schedules to start from, besides the order in which the operators are numbered.
    """
    base = list(range(len(problem.cost)))
    best = _cheapest(problem, [base, *starts], budget)
    if budget < problem.floor or _cannot_improve(problem, best):
        return best
    steps = effort * max(len(base), 50)
    orders = [reorder(problem, base, budget, steps // 10, heat=heat) for heat in (1.0, 10.0)]
    best = _cheapest(problem, [*orders, *([best] if best else [])], budget)
    if _cannot_improve(problem, best):
        return best
    orders.sort(key=lambda order: simulate(problem, order).peak)
    found = [anneal(problem, start, budget, steps // 4) for start in (base, orders[0], *starts)]
    best = _cheapest(problem, [s for s in (best, *found) if s is not None], budget)
    if best is None or _cannot_improve(problem, best):
        return best
    last = anneal(problem, best, budget, steps // 2, heat=0.03)
    return _cheapest(problem, [best, *([last] if last else [])], budget)


def frontier(problem: Problem, budgets: Sequence[int], effort: int = EFFORT) -> list[list[int] | None]:
    """The best schedules for increasing budgets; one for a larger budget never costs more."""
    if list(budgets) != sorted(budgets):
        raise ValueError(f"budgets must increase: {list(budgets)}")
    found: list[list[int] | None] = []
    for budget in budgets:  # a schedule for less memory fits more of it
        starts = [found[-1]] if found and found[-1] else []
        found.append(solve(problem, budget, effort, starts))
    for i in range(len(budgets) - 2, -1, -1):  # and one for more is a start for less
        following = found[i + 1]
        if following is not None:
            again = anneal(problem, following, budgets[i], effort * len(problem.cost) // 4, heat=0.03)
            found[i] = _cheapest(problem, [s for s in (found[i], again) if s is not None], budgets[i])
    for i in range(1, len(budgets)):
        found[i] = _cheapest(problem, [s for s in (found[i], found[i - 1]) if s is not None], budgets[i])
    return found


def _cheapest(problem: Problem, schedules: Sequence[Sequence[int]], budget: int) -> list[int] | None:
    """The cheapest of the schedules that the byte-exact simulation accepts."""
    best, least = None, 0.0
    for schedule in schedules:
        try:
            usage = simulate(problem, schedule)
        except ValueError:  # a start that does not belong to this problem
            continue
        if usage.peak <= budget and (best is None or usage.cost < least):
            best, least = list(schedule), usage.cost
    return best


def _cannot_improve(problem: Problem, schedule: Sequence[int] | None) -> bool:
    return schedule is not None and sum(problem.cost[v] for v in schedule) <= problem.total_cost * (1 + 1e-12)
