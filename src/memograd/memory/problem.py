"""Rematerialization as a problem on a weighted graph, free of PyTorch: operators, the values they produce, and bytes.

The memory model is that of Checkmate (Jain et al., MLSys 2020) and Moccasin (Bartan et al., ICML 2023), extended by
operators with several results, workspace, results that stay, and operators that may run only once. A schedule is a
list of operators in the order in which they run; an operator may appear again, and then produces new copies of all its
values. A copy lives from its computation to its last reading before the value is computed again; a value that is kept
lives on to the end in its newest copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property


@dataclass(frozen=True)
class Problem:
    """The operators of a step, numbered in a valid order of computation.

    Attributes:
        cost: seconds (any unit) of one run of each operator.
        outputs: the values each operator produces; every value has exactly one producer.
        reads: the values each operator reads.
        size: bytes of each value.
        workspace: bytes that live only while the operator runs.
        keep: values that stay to the end once computed (results of the step).
        once: operators that must run exactly once (they write in place, or draw what cannot be drawn again).
        before: pairs (u, v): every run of u must come before every run of v.
        resident: bytes that live throughout the step (parameters, inputs).
        replays: triples (operator, value, workspace): the operator reads ``value`` only to run again, and at its first
            run needs only ``workspace``. Where it runs once the value costs nothing. (An operator that draws random
            numbers, and the state of the generator before it.)
    """

    cost: tuple[float, ...]
    outputs: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]
    workspace: tuple[int, ...]
    keep: frozenset[int] = frozenset()
    once: frozenset[int] = frozenset()
    before: tuple[tuple[int, int], ...] = ()
    resident: int = 0
    replays: tuple[tuple[int, int, int], ...] = ()

    @cached_property
    def producer(self) -> tuple[int, ...]:
        """The operator that produces each value."""
        producers = [-1] * len(self.size)
        for operator, values in enumerate(self.outputs):
            for value in values:
                producers[value] = operator
        return tuple(producers)

    @cached_property
    def total_cost(self) -> float:
        """What running every operator once costs."""
        return sum(self.cost)

    @cached_property
    def floor(self) -> int:
        """No schedule needs less: the largest inputs + outputs + workspace of one operator, plus what stays anyway."""
        return self.resident + max((self.needs(v) for v in range(len(self.cost))), default=0)

    @cached_property
    def lightest(self) -> Problem:
        """The same where nothing is needed to run again: no schedule takes fewer bytes than it takes there."""
        if not self.replays:
            return self
        size, workspace = list(self.size), list(self.workspace)
        for operator, value, first in self.replays:
            size[value], workspace[operator] = 0, first
        return replace(self, size=tuple(size), workspace=tuple(workspace), replays=())

    def needs(self, operator: int) -> int:
        """Bytes that live while ``operator`` runs, whatever the schedule."""
        touched = {*self.reads[operator], *self.outputs[operator]}
        return sum(self.size[v] for v in touched) + self.workspace[operator]


@dataclass(frozen=True)
class Usage:
    """What a schedule needs: ``peak`` bytes (residents included), reached first at position ``at``; its total
    ``cost``; and the live bytes at every position."""

    peak: int
    at: int
    cost: float
    profile: list[int] = field(repr=False)


def simulate(problem: Problem, schedule: Sequence[int]) -> Usage:
    """Run ``schedule`` on paper, byte by byte.

    Raises:
        ValueError: an operator reads a value that was not computed yet, is missing, runs twice though it may run only
            once, or comes after one that it must precede.
    """
    _check_order(problem, schedule)
    ends = last_uses(problem, schedule)
    size, workspace = _as_run(problem, schedule)
    change = [0] * (len(schedule) + 1)
    for (start, value), end in ends.items():
        change[start] += size[value]
        change[end + 1] -= size[value]
    profile, live = [], problem.resident
    for position in range(len(schedule)):
        live += change[position]
        profile.append(live + workspace[position])
    peak = max(profile, default=problem.resident)
    cost = sum(problem.cost[v] for v in schedule)
    return Usage(peak, profile.index(peak) if profile else 0, cost, profile)


def _as_run(problem: Problem, schedule: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Bytes of each value, and of the workspace at each position."""
    workspace = [problem.workspace[k] for k in schedule]
    if not problem.replays:
        return problem.size, workspace
    size, runs = list(problem.size), Counter(schedule)
    for operator, value, first in problem.replays:
        workspace[schedule.index(operator)] = first
        if runs[operator] == 1:
            size[value] = 0
    return size, workspace


def last_uses(problem: Problem, schedule: Sequence[int]) -> dict[tuple[int, int], int]:
    """For every copy, as (position of its computation, value): the position of its last use."""
    newest: dict[int, int] = {}
    ends: dict[tuple[int, int], int] = {}
    for position, operator in enumerate(schedule):
        for value in problem.reads[operator]:
            if value not in newest:
                raise ValueError(f"position {position}: operator {operator} reads value {value}, not computed yet")
            ends[newest[value], value] = position
        for value in problem.outputs[operator]:
            newest[value] = position
            ends[position, value] = position
    for value in problem.keep:
        ends[newest[value], value] = len(schedule) - 1
    return ends


def _check_order(problem: Problem, schedule: Sequence[int]) -> None:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, operator in enumerate(schedule):
        if operator in first and operator in problem.once:
            raise ValueError(f"position {position}: operator {operator} may run only once")
        first.setdefault(operator, position)
        last[operator] = position
    missing = set(range(len(problem.cost))) - set(first)
    if missing:
        raise ValueError(f"operators that never run: {sorted(missing)[:5]}")
    for u, v in problem.before:
        if last[u] > first[v]:
            raise ValueError(f"operator {u} runs at {last[u]}, after operator {v} at {first[v]}, which it must precede")
