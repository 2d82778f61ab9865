"""The solver against trying everything on tiny problems, and against the public graphs' published results."""

from __future__ import annotations

import random

import pytest
from exhaustive import least_cost
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import drawing, random_problem

from memograd.memory.problem import Problem, simulate
from memograd.memory.search.compiled import COMPILED
from memograd.memory.search.solve import solve


def some_budget(problem: Problem, seed: int) -> int:
    peak = simulate(problem, range(len(problem.cost))).peak
    return random.Random(seed).randint(min(problem.lightest.floor, peak), peak)


def checked(problem: Problem, budget: int, schedule: list[int] | None) -> float | None:
    """The schedule's cost, after an independent look at its peak and its rules."""
    if schedule is None:
        return None
    usage = simulate(problem, schedule)
    assert usage.peak <= budget
    return usage.cost


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(1, 12))
def test_schedules_are_valid_and_within_the_budget(seed: int, operators: int) -> None:
    problem = drawing(random_problem(seed, operators), seed)
    budget = some_budget(problem, seed)
    cost = checked(problem, budget, solve(problem, budget, effort=20))
    assert cost is None or cost >= problem.total_cost - 1e-9


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_nothing_beats_trying_everything(seed: int, operators: int) -> None:
    problem = random_problem(seed, operators) if seed % 2 else drawing(random_problem(seed, operators), seed)
    budget = some_budget(problem, seed)
    cost, optimum = checked(problem, budget, solve(problem, budget, effort=20)), least_cost(problem, budget)
    if optimum is None:
        assert cost is None
    elif cost is not None:
        assert cost >= optimum


@pytest.mark.skipif(not COMPILED, reason="needs more steps than uncompiled Python has time for")
@pytest.mark.parametrize("problems", [15, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("in_order", [False, True], ids=["any order", "the given order"])
def test_tiny_problems_are_solved_to_the_optimum(in_order: bool, problems: int) -> None:
    """Of the first problems for which the base order does not fit, and which can be solved, all are."""
    tried = 0
    for seed in range(2000):
        problem = random_problem(seed, 1 + seed % 6)
        budget = some_budget(problem, seed)
        if simulate(problem, range(len(problem.cost))).peak <= budget:
            continue
        optimum = least_cost(problem, budget, in_order)
        if optimum is None:
            continue
        tried += 1
        cost = checked(problem, budget, solve(problem, budget, effort=1000))
        assert cost is not None and cost <= optimum, f"problem {seed}: {cost}, but {optimum} is possible"
        if tried == problems:
            break
    assert tried == problems


def test_the_same_question_has_the_same_answer() -> None:
    problem = random_problem(11, 30)
    budget = int(simulate(problem, range(30)).peak * 0.8)
    assert solve(problem, budget, effort=20) == solve(problem, budget, effort=20)
