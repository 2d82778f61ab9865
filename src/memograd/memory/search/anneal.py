"""Local search: simulated annealing over whole schedules, changed by one small step at a time.

In the spirit of FastSA, with the steps of ``moves``: compute again, remove, move. The energy is the cost plus
``weight`` times the bytes over the budget, summed over the schedule; the weight swings so that the search keeps
crossing the border of what the budget allows, where the best schedules are.

Everything is deterministic: random numbers come from a seed, limits are counts of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memograd.memory.problem import Problem
from memograd.memory.search.compiled import compiled, library
from memograd.memory.search.moves import DEPTH, MODULUS, TRIES, change, draw, step_back
from memograd.memory.search.timeline import EXCESS, schedule_of, timeline

ROUNDS = 20  # the empty slots are spread evenly again after each


@compiled
def _accept(line, state, undo, reorder, price, weight, temperature):
    """One step, taken back if it is too bad for the temperature. Returns the change of cost."""
    before = line.total[EXCESS]
    worst = -temperature * math.log((draw(state, MODULUS) + 1) / MODULUS)  # accepts with exp(-energy / temperature)
    kind, slot, added, removed, extra = change(line, state, undo, reorder, worst / price if price > 0 else math.inf)
    energy = price * extra + weight * (line.total[EXCESS] - before)
    if energy > worst:
        step_back(line, undo, kind, slot, added, removed)
        return 0.0
    return extra


@compiled
def _anneal(line, state, steps, hot, cold, weight, cost, best, best_runs):
    """``steps`` steps while the temperature falls from ``hot`` to ``cold``; the best schedule goes into best_runs."""
    undo = np.empty((TRIES * DEPTH, 2), np.int64)
    cooling = (cold / hot) ** (1.0 / steps)
    period = min(64, max(1, steps // 100))
    for step in range(steps):
        hot *= cooling
        cost += _accept(line, state, undo, False, 1.0, weight, hot)
        if line.total[EXCESS] == 0 and cost < best:
            best = cost
            best_runs[:] = line.runs
        if step % period == 0:
            weight *= 1.02 if line.total[EXCESS] > 0 else 0.985
    return weight, best


@compiled
def _fit(line, state, steps, hot, cold, price, reorder):
    """Up to ``steps`` steps, until nothing exceeds the budget; the temperature is one of bytes."""
    undo = np.empty((TRIES * DEPTH, 2), np.int64)
    cooling = (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        if line.total[EXCESS] == 0:
            return
        hot *= cooling
        _accept(line, state, undo, reorder, price, 1.0, hot)


def anneal(
    problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0
) -> list[int] | None:
    """The best schedule within ``budget`` met on the way from ``start`` (which need not be within it)."""
    schedule, cheapest, best = list(start), None, math.inf
    state = np.array([seed], np.int64)
    mean = _mean(problem.cost)
    weight = mean / (max(problem.size) * len(schedule) / 8)
    hot, cooling = heat * mean, 1e-3 ** (1 / ROUNDS)
    run = _anneal if (c := library()) is None else c.anneal
    for _ in range(ROUNDS):
        line = timeline(problem, schedule, budget)
        cost = sum(problem.cost[v] for v in schedule)
        if line.total[EXCESS] == 0 and cost < best:
            best, cheapest = cost, schedule
        best_runs = np.full_like(line.runs, -1)
        steps_now = max(steps // ROUNDS, 1)
        weight, reached = run(line, state, steps_now, hot, hot * cooling, weight, cost, best, best_runs)
        hot *= cooling
        if reached < best - 1e-9 * problem.total_cost:
            best, cheapest = reached, [int(v) for v in best_runs if v >= 0]
        schedule = schedule_of(line)
    return cheapest


def reorder(
    problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0
) -> list[int]:
    """The runs of ``start`` in an order that exceeds the budget less, if possible not at all."""
    line = timeline(problem, start, budget)
    hot = heat * _mean(problem.size)
    run = _fit if (c := library()) is None else c.fit
    run(line, np.array([seed], np.int64), max(steps, 1), hot, 0.01 * hot, 0.0, True)
    return schedule_of(line)


def fit(problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0) -> list[int]:
    """A schedule that exceeds the budget less than ``start``, if possible not at all, with little regard to cost."""
    schedule, state = list(start), np.array([seed], np.int64)
    size = _mean(problem.size)
    hot, cooling = heat * size, 1e-2 ** (1 / ROUNDS)
    run = _fit if (c := library()) is None else c.fit
    for _ in range(ROUNDS):
        line = timeline(problem, schedule, budget)
        if line.total[EXCESS] > 0:
            price = 0.1 * size / _mean(problem.cost)
            run(line, state, max(steps // ROUNDS, 1), hot, hot * cooling, price, False)
        hot *= cooling
        schedule = schedule_of(line)
    return schedule


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(len(numbers), 1) or 1.0
