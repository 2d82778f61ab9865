"""What is known of a problem: more budget never costs more, in whatever order one asks; and a floor that stays."""

from __future__ import annotations

import random
from dataclasses import replace
from unittest.mock import patch

import pytest
from exhaustive import least_cost
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import random_problem

from memograd.memory.problem import simulate
from memograd.memory.search.solutions import Solutions, solutions_of


def fresh(seed: int, operators: int) -> Solutions:
    """Knows one schedule: the base order."""
    solutions = Solutions(random_problem(seed, operators))
    solutions.add(list(range(operators)))
    return solutions


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_the_order_of_questions_makes_nothing_dearer(seed: int) -> None:
    asked_in_any_order(seed)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_the_order_of_many_questions_makes_nothing_dearer(seed: int) -> None:
    asked_in_any_order(seed)


def asked_in_any_order(seed: int) -> None:
    solutions = fresh(seed, 10)
    problem = solutions.problem
    peak = simulate(problem, range(10)).peak
    budgets = sorted({problem.floor + (peak - problem.floor) * k // 6 for k in range(7)})
    with patch(
        "memograd.memory.search.solutions._EFFORTS", ((1, 0.0), (5, 0.0))
    ):  # the less it searches, the more it is left to luck
        for budget in random.Random(seed).sample(budgets, len(budgets)):
            schedule = solutions.search(budget)
            assert schedule is None or simulate(problem, schedule).peak <= budget
        answers = [solutions.search(b) for b in budgets]
    costs = [simulate(problem, s).cost for s in answers if s is not None]
    assert costs == sorted(costs, reverse=True)
    assert answers[len(answers) - len(costs) :] == [s for s in answers if s is not None], "feasible with less, so here"
    assert costs and costs[-1] == problem.total_cost, "the base order fits its own peak"


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_the_floor_stays_and_is_no_fiction(seed: int, operators: int) -> None:
    solutions = fresh(seed, operators)
    floor, schedule = solutions.leanest()
    assert simulate(solutions.problem, schedule).peak == floor, "there is a schedule for it"
    assert least_cost(solutions.problem, floor) is not None
    solutions.search(floor - 1)
    solutions.search(floor + 5)
    assert solutions.leanest() == (floor, schedule), "once told, it stays"
    assert solutions.search(floor - 1) is None and solutions.search(floor) is not None


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_the_floor_depends_neither_on_earlier_questions_nor_on_measured_costs(seed: int) -> None:
    same_floor(seed)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_floors_of_many_problems_depend_neither_on_earlier_questions_nor_on_measured_costs(seed: int) -> None:
    same_floor(seed)


def same_floor(seed: int) -> None:
    first, asked = fresh(seed, 12), fresh(seed, 12)
    floor = first.leanest()[0]
    for budget in range(simulate(asked.problem, range(12)).peak, asked.problem.floor, -5):
        asked.search(budget, efforts=((1, 0.0),))
    assert asked.leanest()[0] <= floor, "earlier questions refuse nothing that is possible without them"
    other = Solutions(replace(first.problem, cost=tuple(random.Random(seed).random() for _ in range(12))))
    other.add(list(range(12)))
    assert other.leanest()[0] == floor


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(2, 6))
def test_bounds_are_below_every_schedule(seed: int, operators: int) -> None:
    solutions = fresh(seed, operators)
    budget = (solutions.problem.floor + simulate(solutions.problem, range(operators)).peak) // 2
    optimum = least_cost(solutions.problem, budget)
    if optimum is not None:
        assert solutions.bound(budget).any_order <= optimum - solutions.problem.total_cost + 1e-9


def test_one_problem_is_known_once_and_old_ones_are_forgotten() -> None:
    problem = random_problem(3, 8)
    first = solutions_of(problem, [list(range(8))])
    assert solutions_of(random_problem(3, 8), []) is first, "an equal problem, not the same object"
    for seed in range(100, 140):
        solutions_of(random_problem(seed, 5), [])
    assert solutions_of(problem, []) is not first, "memory is bounded"
