"""Certificates against the true optimum of tiny problems, found by trying everything."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from exhaustive import least_cost
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from problems import drawing, random_problem

from memograd.memory.bounds import stages
from memograd.memory.bounds.certificate import Bound, any_order_bound, lower_bound
from memograd.memory.bounds.cuts import cuts_of, least_bytes, necessary_order
from memograd.memory.problem import Problem, simulate
from memograd.memory.search.solve import solve

SLACK = 1e-9


@st.composite
def problems(draw: st.DrawFn, training: bool) -> Problem:
    """Up to seven operators with one or two results each, some kept, run once, ordered, with workspace. In a training
    step the second half reads the results of the first half, last ones first; otherwise the reads are arbitrary."""
    count = draw(st.integers(4, 7) if training else st.integers(2, 6))
    outputs: list[tuple[int, ...]] = []
    reads, values = [], 0
    for a in range(count):
        before = draw(st.sets(st.integers(0, values - 1), max_size=1 if training else 3)) if values else set()
        if training and a:
            before |= {outputs[a - 1][0]} | ({outputs[count - 1 - a][-1]} if 2 * a >= count else set())
        reads.append(tuple(sorted(before)))
        made = draw(st.sampled_from([1, 1, 2]))
        outputs.append(tuple(range(values, values + made)))
        values += made
    operator = st.integers(0, count - 1)
    made_up = Problem(
        cost=tuple(draw(st.lists(st.integers(1, 9).map(float), min_size=count, max_size=count))),
        outputs=tuple(outputs),
        reads=tuple(reads),
        size=tuple(draw(st.lists(st.integers(int(training), 5), min_size=values, max_size=values))),
        workspace=tuple(draw(st.lists(st.sampled_from([0, 0, 0, 1, 3]), min_size=count, max_size=count))),
        keep=frozenset(draw(st.sets(st.integers(0, values - 1), max_size=2))),
        once=frozenset(draw(st.sets(operator, max_size=1))),
        before=tuple((u, v) for u, v in draw(st.sets(st.tuples(operator, operator), max_size=1)) if u < v),
        resident=draw(st.integers(0, 2)),
    )
    return drawing(made_up, 1) if draw(st.booleans()) else made_up


def extra_cost(problem: Problem, budget: int, in_order: bool) -> float:
    """The true optimum; infinite if no schedule fits."""
    cost = least_cost(problem, budget, in_order)
    return inf if cost is None else cost - problem.total_cost


def refuted(problem: Problem, budget: int, any_order: float, this_order: float) -> bool:
    """Whether some schedule costs less than what is claimed."""
    return (
        any_order > extra_cost(problem, budget, in_order=False) + SLACK
        or this_order > extra_cost(problem, budget, in_order=True) + SLACK
    )


def tried(examples: int) -> settings:
    """The same examples in every run."""
    slow = [HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=slow, derandomize=True)


@tried(120)
@given(problems(False) | problems(True), st.integers(0, 4), st.sampled_from([0, 1]))
def test_no_schedule_beats_the_bound(problem: Problem, above: int, effort: int) -> None:
    nothing_is_cheaper(problem, above, effort)


@pytest.mark.slow
@tried(1000)
@given(problems(False) | problems(True), st.integers(0, 4), st.sampled_from([0, 1]))
def test_no_schedule_beats_the_bound_of_many_problems(problem: Problem, above: int, effort: int) -> None:
    nothing_is_cheaper(problem, above, effort)


def nothing_is_cheaper(problem: Problem, above: int, effort: int) -> None:
    budget = problem.lightest.floor + above
    bound = lower_bound(problem, budget, effort)
    assert not refuted(problem, budget, bound.any_order, bound.this_order)
    assert 0 <= bound.any_order <= bound.this_order
    assert any_order_bound(problem, budget, effort) == bound.any_order


@tried(150)
@given(problems(False) | problems(True), st.integers(0, 4))
def test_the_knapsack_alone_is_a_bound(problem: Problem, above: int) -> None:
    """What remains without SciPy."""
    budget = problem.lightest.floor + above
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "available", lambda: False)
        bound = lower_bound(problem, budget)
    assert not refuted(problem, budget, bound.any_order, bound.this_order)


@tried(150)
@given(problems(False) | problems(True))
def test_no_schedule_needs_less_than_the_least_bytes(problem: Problem) -> None:
    least = least_bytes(cuts_of(problem.lightest, necessary_order(problem)))
    assert least >= problem.lightest.floor
    assert least_cost(problem, least - 1) is None


# Five operators: f, g, h, then the adjoints of h and of g. Only f or g can be dropped at h. Bytes: f 4, g 3, h 2.
SMALL = Problem(
    cost=(5.0, 3.0, 1.0, 1.0, 1.0),
    outputs=((0,), (1,), (2,), (3,), (4,)),
    reads=((), (), (0, 1), (1, 2), (0, 3)),
    size=(4, 3, 2, 1, 1),
    workspace=(0,) * 5,
    keep=frozenset({4}),
)


@pytest.mark.parametrize(("budget", "extra"), [(10, 0.0), (9, 5.0)])
def test_worked_by_hand(budget: int, extra: float) -> None:
    """The adjoint of h runs beside f: 4 + 3 + 2 + 1 = 10 bytes. With 9 bytes f must run again: 5."""
    bound = lower_bound(SMALL, budget)
    assert bound.any_order == pytest.approx(extra, abs=1e-3)
    assert lower_bound(SMALL, 8).any_order == inf


def wrong_by_a_byte(problem: Problem, budget: int) -> Bound:
    return lower_bound(problem, budget - 1)


def wrong_about_the_order(problem: Problem, budget: int) -> Bound:
    """Claims for any order what holds for one."""
    bound = lower_bound(problem, budget)
    return Bound(bound.this_order, bound.this_order, bound.how)


def wrong_by_a_thousandth(problem: Problem, budget: int) -> Bound:
    bound = lower_bound(problem, budget)
    return Bound(bound.any_order * 1.001, bound.this_order * 1.001, bound.how)


@pytest.mark.parametrize("wrong", [wrong_by_a_byte, wrong_about_the_order, wrong_by_a_thousandth])
def test_a_wrong_bound_is_refuted(wrong: Callable[[Problem, int], Bound]) -> None:
    """The check above can fail: for bounds slightly too large it does."""

    def caught(case: tuple[Problem, int]) -> bool:
        problem, above = case
        bound = wrong(problem, problem.lightest.floor + above)
        return refuted(problem, problem.lightest.floor + above, bound.any_order, bound.this_order)

    cases = st.tuples(problems(False) | problems(True), st.integers(1, 4))
    generate = settings(max_examples=2000, deadline=None, phases=[Phase.generate], derandomize=True, database=None)
    find(cases, caught, settings=generate)


def training_chain(length: int) -> Problem:
    """f1 … fn, then their adjoints, each of which reads its operator's input and output; one byte and one second."""
    reads: list[tuple[int, ...]] = [() if a == 0 else (a - 1,) for a in range(length)]
    for a in reversed(range(length)):
        reads.append(tuple(sorted({max(a - 1, 0), a, len(reads) - 1})))
    count = 2 * length
    each = tuple((a,) for a in range(count))
    return Problem((1.0,) * count, each, tuple(reads), (1,) * count, (0,) * count, keep=frozenset({count - 1}))


@pytest.mark.parametrize("segment", [2, 4, 8])
def test_checkpointed_segments_cost_at_least_the_bound(segment: int) -> None:
    """Chen et al. (2016): keep every segment's end, and run a segment again when its adjoints come."""
    length = 32
    problem = training_chain(length)
    schedule = list(range(length))
    for end in range(length, 0, -segment):
        if end < length:
            schedule += range(end - segment, end - 1)
        schedule += range(2 * length - end, 2 * length - end + segment)
    usage = simulate(problem, schedule)
    bound = lower_bound(problem, usage.peak)
    assert usage.peak < simulate(problem, range(2 * length)).peak
    assert 0 < bound.any_order <= usage.cost - problem.total_cost + SLACK
    assert bound == lower_bound(problem, usage.peak)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.integers(10, 30), st.floats(0.5, 1.0))
def test_what_the_solver_finds_costs_at_least_the_bound(seed: int, operators: int, share: float) -> None:
    """Larger problems than can be searched through."""
    for problem in (random_problem(seed, operators), training_chain(operators)):
        budget = int(simulate(problem, range(len(problem.cost))).peak * share)
        schedule = solve(problem, budget, effort=20)
        if schedule is not None:
            extra = simulate(problem, schedule).cost - problem.total_cost
            assert lower_bound(problem, budget).any_order <= extra + SLACK


def test_the_optimum_of_a_chain_is_proved() -> None:
    """The certificate meets the schedule: at three quarters of the memory the solver's answer is the best there is."""
    problem = training_chain(32)
    budget = simulate(problem, range(64)).peak * 3 // 4
    schedule = solve(problem, budget)
    assert schedule is not None
    extra = simulate(problem, schedule).cost - problem.total_cost
    assert extra > 0
    assert lower_bound(problem, budget).any_order == pytest.approx(extra, rel=1e-3)
