"""The simulation: against cases counted by hand, and against its definition followed literally."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import drawing, random_problem
from training_steps import random_schedule

from memograd.memory.problem import Problem, last_uses, simulate

# a -> b -> c, and d reads a and c: the smallest forward and backward pass
CHAIN = Problem(
    cost=(1.0, 2.0, 4.0, 8.0),
    outputs=((0,), (1,), (2,), (3,)),
    reads=((), (0,), (1,), (0, 2)),
    size=(10, 20, 30, 40),
    workspace=(0, 0, 5, 0),
    keep=frozenset({3}),
    resident=100,
)


def test_each_value_dies_behind_its_last_use() -> None:
    usage = simulate(CHAIN, [0, 1, 2, 3])
    assert usage.profile == [110, 130, 165, 180], "c runs with a, b, c and its workspace; d with a, c, d"
    assert (usage.peak, usage.at, usage.cost) == (180, 3, 15.0)


def test_what_is_computed_again_need_not_wait() -> None:
    usage = simulate(CHAIN, [0, 1, 2, 0, 3])
    assert usage.profile == [110, 130, 155, 140, 180] and usage.cost == 16.0, "a is not there while c runs"


def test_kept_values_stay_in_their_newest_copy() -> None:
    kept = replace(CHAIN, keep=frozenset({0, 3}))
    assert simulate(kept, [0, 1, 2, 3]).profile == [110, 130, 165, 180]
    assert simulate(kept, [0, 1, 2, 3, 0]).profile == [110, 130, 165, 180, 150]
    assert last_uses(kept, [0, 1, 2, 3, 0])[4, 0] == 4


def test_all_results_of_an_operator_are_there_while_it_runs() -> None:
    two = Problem((1.0, 1.0), ((0, 1), (2,)), ((), (0,)), (3, 50, 7), (0, 0), frozenset({2}))
    assert simulate(two, [0, 1]).profile == [53, 10], "value 1, which nobody reads, dies at once"


def test_a_draw_needs_the_generators_state_only_to_run_again() -> None:
    """s saves the state (5 bytes), d draws from it, e and f read what was drawn."""
    step = Problem(
        cost=(0.0, 1.0, 1.0, 1.0),
        outputs=((0,), (1,), (2,), (3,)),
        reads=((), (0,), (1,), (1, 2)),
        size=(5, 40, 3, 2),
        workspace=(0, 10, 0, 0),
        keep=frozenset({3}),
        once=frozenset({0}),
        replays=((1, 0, 7),),
    )
    assert simulate(step, [0, 1, 2, 3]).profile == [0, 47, 43, 45], "it runs once: no state, its own workspace"
    assert simulate(step, [0, 1, 2, 1, 3]).profile == [5, 52, 48, 58, 45]
    assert step.lightest == replace(step, size=(0, 40, 3, 2), workspace=(0, 7, 0, 0), replays=())


def test_nothing_at_all() -> None:
    empty = Problem((), (), (), (), (), resident=7)
    assert simulate(empty, []).peak == 7 and empty.floor == 7


def test_no_schedule_needs_less_than_the_floor() -> None:
    assert CHAIN.floor == 100 + 10 + 30 + 40 and CHAIN.needs(2) == 20 + 30 + 5


@pytest.mark.parametrize(
    ("changes", "schedule", "message"),
    [
        ({}, [1, 0, 2, 3], "not computed yet"),
        ({}, [0, 1, 3, 2], "not computed yet"),
        ({}, [0, 1, 2], "never run"),
        ({"once": frozenset({1})}, [0, 1, 2, 1, 3], "only once"),
        ({"before": ((0, 2),)}, [0, 1, 2, 0, 3], "must precede"),
    ],
)
def test_what_cannot_run_is_refused(changes: dict, schedule: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(replace(CHAIN, **changes), schedule)


def literally(problem: Problem, schedule: list[int]) -> list[int]:
    """Live bytes at each position, by asking for each copy and each moment whether it is still needed."""
    profile = []
    firsts = {operator: workspace for operator, _, workspace in problem.replays}
    unused = {value for operator, value, _ in problem.replays if schedule.count(operator) == 1}
    for now, running in enumerate(schedule):
        first = running in firsts and running not in schedule[:now]
        live = problem.resident + (firsts[running] if first else problem.workspace[running])
        for value, size in enumerate(problem.size):
            if value in unused:
                continue
            runs = [t for t, k in enumerate(schedule) if value in problem.outputs[k]]
            for t, following in zip(runs, [*runs[1:], None], strict=True):
                readings = [u for u in range(t + 1, len(schedule)) if value in problem.reads[schedule[u]]]
                until = max([t, *(u for u in readings if following is None or u <= following)])
                if following is None and value in problem.keep:
                    until = len(schedule) - 1
                live += size if t <= now <= until else 0
        profile.append(live)
    return profile


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(1, 10), st.integers(0, 8))
def test_the_profile_is_what_the_definition_says(seed: int, operators: int, extra: int) -> None:
    problem = random_problem(seed, operators)
    if seed % 2:
        problem = drawing(problem, seed)
    if len(problem.once) == operators:
        extra = 0
    schedule = random_schedule(problem, seed, extra)
    usage = simulate(problem, schedule)
    assert usage.profile == literally(problem, schedule)
    assert usage.peak == max(usage.profile) and usage.profile.index(usage.peak) == usage.at
    assert usage.cost == sum(problem.cost[k] for k in schedule)
