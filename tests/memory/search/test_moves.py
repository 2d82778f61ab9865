"""Whatever the search does to a schedule: it stays executable, its profile is what the simulation says, and what is
taken back leaves nothing behind."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import drawing, random_problem

from memograd.memory.problem import Problem, simulate
from memograd.memory.search.moves import DEPTH, MOVE, NOTHING, OTHER, TRIES, change, step_back
from memograd.memory.search.timeline import EMPTY, EXCESS, Timeline, schedule_of, timeline


def profile(line: Timeline) -> list[int]:
    """Live bytes at each run."""
    return [int(b) for b, run in zip(line.live, line.runs, strict=True) if run >= 0]


def exceeding(line: Timeline, budget: int) -> int:
    assert all(b < budget for b, run in zip(line.live, line.runs, strict=True) if run < 0), "nothing runs there"
    return sum(max(0, b - budget) for b in profile(line))


def charged(problem: Problem, schedule: list[int]) -> list[int]:
    """The profile where a draw always needs what it needs to run again: the search is on the safe side."""
    return simulate(replace(problem, replays=()), schedule).profile


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(2, 14), st.floats(0.3, 1.2), st.booleans())
def test_any_sequence_of_steps(seed: int, operators: int, share: float, reorder: bool) -> None:
    problem = drawing(random_problem(seed, operators), seed)
    budget = int(share * simulate(problem, range(operators)).peak)
    line = timeline(problem, range(operators), budget)
    state, undo = np.array([1 + seed % 1000], np.int64), np.empty((TRIES * DEPTH, 2), np.int64)
    kinds = set()
    for step in range(60):
        before, cost = schedule_of(line), sum(problem.cost[k] for k in schedule_of(line))
        kind, slot, added, removed, extra = change(line, state, undo, reorder, math.inf)
        kinds.add(kind)
        after = schedule_of(line)
        assert len(after) == len(before) + added - removed
        assert math.isclose(sum(problem.cost[k] for k in after), cost + extra, abs_tol=1e-9)
        assert profile(line) == charged(problem, after), "and simulate raises where it cannot run"
        assert line.total[EXCESS] == exceeding(line, budget)
        if kind != NOTHING and step % 3 == 0:
            step_back(line, undo, kind, slot, added, removed)
            assert schedule_of(line) == before
            assert profile(line) == charged(problem, before)
            assert line.total[EXCESS] == exceeding(line, budget)
    assert not reorder or kinds <= {NOTHING, MOVE}, "only the order may change"
    assert max(profile(line)) < EMPTY


def test_something_is_computed_again_in_exchange_for_others() -> None:
    problem = random_problem(5, 30)
    budget = int(0.9 * simulate(problem, range(30)).peak)
    line = timeline(problem, range(30), budget)
    state, undo = np.array([1], np.int64), np.empty((TRIES * DEPTH, 2), np.int64)
    exchanges = 0
    for _ in range(3000):
        kind, slot, added, removed, _ = change(line, state, undo, False, 0.0)
        exchanges += kind == OTHER and added > 0 and removed > 0
        if kind != NOTHING and line.total[EXCESS] > 0:  # so that each step starts within the budget
            step_back(line, undo, kind, slot, added, removed)
    assert exchanges > 10
