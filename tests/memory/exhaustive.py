"""The cheapest schedule of a tiny problem by trying everything: the witness for the solver."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from memograd.memory.problem import Problem

State = tuple[int, int]  # operators that ran and values in memory, as bit sets


def least_cost(problem: Problem, budget: int, in_order: bool = False) -> float | None:
    """The least cost of any schedule with a peak within ``budget``; None if there is none.

    ``in_order``: only schedules whose first runs follow the numbering of the operators.
    """
    costs = [_least_cost(variant, budget, in_order) for variant in _variants(problem)]
    return min((c for c in costs if c is not None), default=None)


def _least_cost(problem: Problem, budget: int, in_order: bool) -> float | None:
    done_all = (1 << len(problem.cost)) - 1
    kept = sum(1 << v for v in problem.keep)
    heap: list[tuple[float, State]] = [(0.0, (0, 0))]
    settled: set[State] = set()
    while heap:
        cost, state = heapq.heappop(heap)
        if state in settled:
            continue
        settled.add(state)
        done, live = state
        if done == done_all and live & kept == kept:
            return cost
        for value in range(len(problem.size)):  # forgetting is free
            if live >> value & 1:
                heapq.heappush(heap, (cost, (done, live & ~(1 << value))))
        for operator, after in _runs(problem, budget, done, live, in_order):
            heapq.heappush(heap, (cost + problem.cost[operator], (done | 1 << operator, after)))
    return None


def _variants(problem: Problem) -> Iterator[Problem]:
    """One problem for each choice of the draws that may run again; the others need nothing for that."""
    for chosen in product([False, True], repeat=len(problem.replays)):
        size, once = list(problem.size), set(problem.once)
        for again, (operator, value, _) in zip(chosen, problem.replays, strict=True):
            if not again:
                size[value] = 0
                once.add(operator)
        yield replace(problem, size=tuple(size), once=frozenset(once))


def _runs(problem: Problem, budget: int, done: int, live: int, in_order: bool) -> Iterator[tuple[int, int]]:
    first = {operator: workspace for operator, _, workspace in problem.replays}
    for operator in range(len(problem.cost)):
        again = done >> operator & 1
        if (again and operator in problem.once) or any(not live >> v & 1 for v in problem.reads[operator]):
            continue
        if in_order and not again and done != (1 << operator) - 1:
            continue
        if any((u == operator and done >> v & 1) or (v == operator and not done >> u & 1) for u, v in problem.before):
            continue
        after = live
        for value in problem.outputs[operator]:
            after |= 1 << value
        bytes_live = sum(size for v, size in enumerate(problem.size) if after >> v & 1)
        workspace = problem.workspace[operator] if again else first.get(operator, problem.workspace[operator])
        if problem.resident + bytes_live + workspace <= budget:
            yield operator, after
