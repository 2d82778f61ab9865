"""The dynamic program over stages, and the schedules it is replayed as."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import random_problem

from memograd.memory.problem import Problem, simulate
from memograd.memory.search.chain import chain
from memograd.memory.search.replay import replay


def network(depth: int, bytes_kept: int = 10) -> Problem:
    """A forward chain 0..depth-1, then a backward chain that reads its values last to first; every cost is 1."""
    count = 2 * depth
    reads = [() if k == 0 else (k - 1,) for k in range(depth)]
    reads += [(k - 1, 2 * depth - 1 - k) for k in range(depth, count)]
    return Problem(
        cost=(1.0,) * count,
        outputs=tuple((k,) for k in range(count)),
        reads=tuple(reads),
        size=(bytes_kept,) * count,
        workspace=(0,) * count,
        keep=frozenset({count - 1}),
    )


@pytest.mark.parametrize("depth", [16, 64, 144])
def test_a_chain_fits_about_twice_the_root_of_its_depth(depth: int) -> None:
    """Chen et al. 2016: segments of sqrt(n) need O(sqrt n) values at the cost of one more forward pass."""
    problem = network(depth)
    budget = 10 * (2 * round(depth**0.5) + 6)
    schedule = chain(problem, budget)
    assert schedule is not None
    usage = simulate(problem, schedule)
    assert usage.peak <= budget and usage.cost <= problem.total_cost + depth


def test_more_budget_costs_less() -> None:
    problem = network(64)
    costs = []
    for share in (30, 50, 70, 90, 110):
        schedule = chain(problem, simulate(problem, range(128)).peak * share // 100)
        assert schedule is not None
        costs.append(simulate(problem, schedule).cost)
    assert costs == sorted(costs, reverse=True) and costs[-1] == problem.total_cost


def test_far_below_the_root_values_are_computed_again_for_each_reader() -> None:
    problem = network(36)
    budget = 10 * 7
    schedule = chain(problem, budget)
    assert schedule is not None
    usage = simulate(problem, schedule)
    assert usage.peak <= budget and usage.cost > problem.total_cost + 36


def test_nothing_is_found_below_the_floor() -> None:
    assert chain(network(16), network(16).floor - 1) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(1, 14), st.data())
def test_every_replay_is_valid(seed: int, operators: int, data: st.DataObject) -> None:
    """Whatever is dropped wherever, also next to operators that may run once or before others."""
    problem = random_problem(seed, operators)
    order = list(range(len(problem.cost)))
    turn = data.draw(st.integers(0, len(order) - 1))
    dropped = data.draw(st.sets(st.integers(0, len(problem.size) - 1))) if problem.size else set()
    free = {v for v in dropped if problem.producer[v] not in problem.once}
    for forget in (False, True):
        simulate(problem, replay(problem, order, turn, free, forget))  # raises where a schedule is not valid


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(2, 14), st.floats(0.3, 1.0))
def test_what_is_found_fits(seed: int, operators: int, share: float) -> None:
    problem = random_problem(seed, operators)
    budget = int(simulate(problem, range(len(problem.cost))).peak * share)
    schedule = chain(problem, budget)
    assert schedule is None or simulate(problem, schedule).peak <= budget
