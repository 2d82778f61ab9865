"""The dynamic program over a chain of stages: which stages keep what the backward pass reads, which run again.

The operators up to the peak of the base order (the forward pass, in a training step) are cut into stages where the
fewest bytes cross. A stage keeps all its values that are read behind the peak, or only those that are dear to compute
again, or it belongs to a run of stages that keeps nothing but what crosses its end (a segment checkpoint; Chen et al.
2016, Feng & Huang 2021). With ``least[t][m]`` the least cost of stages 0..t-1 that hold m bytes,

    least[t][m] = min over runs s..t-1 and what they keep of least[s][m - held] + cost,

where a run is allowed only if what is held below it, the run computed again, and the gradients around it fit the
budget. Bytes are rounded up and the budget down, so what fits here fits there; the byte-exact simulation decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from memograd.memory.problem import Problem, last_uses, simulate
from memograd.memory.search.replay import replay

STAGES = 48  # at most
LEVELS = 2000  # of memory; each stage may lose one to rounding
SHARES = (0.25, 0.5, 0.75)  # of a stage's values, the cheapest to compute again first
LONGEST = 20  # times the number of operators: longer schedules are not considered
# of the budget: a stage's values do not all wait while its gradients are largest, but a replay has needs of its own
ALLOWED = (2.0, 1.6, 1.4, 1.3, 1.2, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


def chain(problem: Problem, budget: int, base: Sequence[int] | None = None) -> list[int] | None:
    """The schedule that the dynamic program finds within ``budget`` bytes; None if it finds none."""
    order = list(base) if base is not None else list(range(len(problem.cost)))
    stages = _stages(problem, order)
    best, least = None, math.inf
    for share in ALLOWED:
        dropped = _solve(stages, int(share * budget))
        if dropped is None:
            break
        schedule = replay(problem, order, stages.turn, dropped)
        usage = simulate(problem, schedule)
        if usage.peak <= budget and usage.cost < least:
            best, least = schedule, usage.cost
    return best or _leanest(problem, order, stages, budget)


def _leanest(problem: Problem, order: list[int], stages: _Stages, budget: int) -> list[int] | None:
    """Where no choice of segments fits: everything between checkpoints is computed again for each of its readers.
    The closest checkpoints that leave enough room are the cheapest."""
    count, limit = len(stages.runs) - 1, LONGEST * len(order)
    for length in sorted({min(2**k, count) for k in range(count.bit_length() + 1)}):
        dropped: set[int] = set()
        for start in range(0, count, length):
            stop = min(start + length, count)
            dropped.update(next(r for r in stages.runs[stop] if r.start == start and r.whole).dropped)
        schedule = replay(problem, order, stages.turn, dropped, forget=True, limit=limit)
        if len(schedule) <= limit and simulate(problem, schedule).peak <= budget:
            return schedule
    return None


@dataclass(frozen=True)
class _Run:
    """Stages ``start`` to ``stop - 1`` that drop the values ``dropped``: what they hold until their turn comes, what
    they need then, and the cost."""

    start: int
    held: int
    needs: int
    cost: float
    dropped: tuple[int, ...]
    whole: bool  # drops all it may


@dataclass(frozen=True)
class _Stages:
    turn: int  # position of the last operator of the forward part
    runs: list[list[_Run]]  # by the stage behind them
    least: int  # bytes that live at the turn whatever is dropped


def _stages(problem: Problem, order: list[int]) -> _Stages:
    usage = simulate(problem, order)
    turn = usage.at
    place = {v: i for i, k in enumerate(order) for v in problem.outputs[k]}
    ends = {v: end for (_, v), end in last_uses(problem, order).items()}
    readers: dict[int, list[int]] = {v: [] for v in place}
    for position, operator in enumerate(order):
        for v in problem.reads[operator]:
            readers[v].append(position)
    crossing = [v for v, at in place.items() if at <= turn < ends[v] and v not in problem.keep]
    profile = np.array(usage.profile)
    rest = profile.copy()  # without the values in question
    for v in crossing:
        rest[place[v] : ends[v] + 1] -= problem.size[v]
    cuts = _cuts(problem, order, turn, place, readers)
    build = _Builder(problem, order, turn, place, ends, readers, crossing, rest, cuts)
    return _Stages(turn, build.runs(), int(rest[turn]))


def _cuts(
    problem: Problem, order: list[int], turn: int, place: dict[int, int], readers: dict[int, list[int]]
) -> list[int]:
    """Ends of stages: in each of STAGES equal parts the position that the fewest bytes cross on their way forward."""
    flow = np.zeros(turn + 2)
    for v, at in place.items():
        forward = [p for p in readers[v] if p <= turn]
        if at <= turn and forward:
            flow[at] += problem.size[v]
            flow[forward[-1]] -= problem.size[v]
    flow = np.cumsum(flow)[: turn + 1]
    work = np.cumsum([problem.cost[k] for k in order[: turn + 1]])
    borders = np.searchsorted(work, np.linspace(0, work[-1], STAGES + 1)[1:-1])
    edges = sorted({0, *(int(b) for b in borders), turn})
    cuts = {a + int(np.argmin(flow[a:b])) for a, b in pairwise(edges) if b > a}
    return sorted(cuts | {turn})


class _Builder:
    """Counts, for every run of stages, what it holds, needs and costs."""

    def __init__(
        self,
        problem: Problem,
        order: list[int],
        turn: int,
        place: dict[int, int],
        ends: dict[int, int],
        readers: dict[int, list[int]],
        crossing: list[int],
        rest: np.ndarray,
        cuts: list[int],
    ) -> None:
        self.problem, self.rest, self.cuts, self.turn = problem, rest, cuts, turn
        self.order = order
        self.place = place
        count = len(cuts)
        self.stage_of = {v: int(np.searchsorted(cuts, place[v])) for v in crossing}
        self.values: list[list[int]] = [[] for _ in range(count)]
        for v in crossing:
            self.values[self.stage_of[v]].append(v)
        # the last stage that reads a value on the way forward: it must be there when a run before that ends
        self.until = {
            v: int(np.searchsorted(cuts, max([p for p in readers[v] if p <= turn], default=place[v]))) for v in crossing
        }
        self.first_back = {v: min([p for p in readers[v] if p > turn], default=ends[v]) for v in crossing}
        self.ends = ends
        self.drawn = self._drawn()
        self.recomputing = self._cost_of_stages()

    def _drawn(self) -> set[int]:
        """Operators that read, directly or through values which have died by the turn, what may not be computed again
        (raw random numbers): these would have to wait in place of the result."""
        problem, drawn = self.problem, set()
        states = {v for _, v, _ in problem.replays}  # these wait willingly
        for operator in self.order[: self.turn + 1]:
            waits = [v for v in problem.reads[operator] if v not in self.stage_of and v not in states]
            dead = [problem.producer[v] for v in waits]
            if any(k in problem.once or k in drawn for k in dead):
                drawn.add(operator)
        return drawn

    def _cost_of_stages(self) -> list[float]:
        """Cost of all operators of a stage that lead to values in question."""
        problem, wanted = self.problem, set(self.stage_of)
        cost = [0.0] * len(self.cuts)
        for position in range(self.turn, -1, -1):
            operator = self.order[position]
            if operator not in problem.once and any(v in wanted for v in problem.outputs[operator]):
                wanted.update(problem.reads[operator])
                cost[int(np.searchsorted(self.cuts, position))] += problem.cost[operator]
        return cost

    def runs(self) -> list[list[_Run]]:
        count = len(self.cuts)
        table: list[list[_Run]] = [[] for _ in range(count + 1)]
        for start in range(count):
            table[start + 1] += self._single(start)
            values: list[int] = []
            cost = 0.0
            for stop in range(start + 1, count + 1):
                values = values + self.values[stop - 1]
                cost += self.recomputing[stop - 1]
                free = [v for v in values if self._free(v, stop)]
                table[stop].append(self._run(start, stop, values, free, cost, whole=True))
        return table

    def _free(self, value: int, stop: int) -> bool:
        """Whether a value may be dropped by a run that ends before stage ``stop``."""
        producer = self.problem.producer[value]
        return self.until[value] < stop and producer not in self.problem.once and producer not in self.drawn

    def _run(
        self, start: int, stop: int, values: list[int], dropped: list[int], cost: float, whole: bool = False
    ) -> _Run:
        size = self.problem.size
        held = sum(size[v] for v in values) - sum(size[v] for v in dropped)
        needs = max(self._forward(start, stop), self._backward(values))
        return _Run(start, held, needs, cost if dropped else 0.0, tuple(dropped), whole)

    def _forward(self, start: int, stop: int) -> int:
        """The most bytes of other values while these stages run for the first time."""
        first = self.cuts[start - 1] + 1 if start else 0
        return int(self.rest[first : self.cuts[stop - 1] + 1].max())

    def _backward(self, values: list[int]) -> int:
        """The most bytes while their values are read behind the turn: those not yet used up, and all others."""
        if not values:
            return 0
        first, last = min(self.first_back[v] for v in values), max(self.ends[v] for v in values)
        waiting = np.zeros(last - first + 2, dtype=np.int64)
        for v in values:
            waiting[self.ends[v] - first] += self.problem.size[v]
        return int((np.cumsum(waiting[::-1])[::-1][:-1] + self.rest[first : last + 1]).max())

    def _single(self, stage: int) -> list[_Run]:
        """A stage by itself: all kept, or its cheapest values dropped."""
        values = self.values[stage]
        runs = [self._run(stage, stage + 1, values, [], 0.0)]
        problem = self.problem
        free = [v for v in values if self._free(v, stage + 1) and problem.size[v]]
        free.sort(key=lambda v: problem.cost[problem.producer[v]] / problem.size[v])
        for share in SHARES:
            dropped = free[: math.ceil(share * len(free))]
            if dropped:
                runs.append(self._run(stage, stage + 1, values, dropped, self._recompute(dropped)))
        return runs

    def _recompute(self, dropped: list[int]) -> float:
        """Cost of the operators that bring ``dropped`` back when all other values in question are there."""
        problem, gone = self.problem, set(dropped)
        operators: set[int] = set()
        stack = [problem.producer[v] for v in dropped]
        while stack:
            operator = stack.pop()
            if operator in operators or operator in problem.once:
                continue
            operators.add(operator)
            missing = [v for v in problem.reads[operator] if v not in self.stage_of or v in gone]
            stack += [problem.producer[v] for v in missing]
        return sum(problem.cost[k] for k in operators)


def _solve(stages: _Stages, budget: int) -> set[int] | None:
    """The values to drop at the least cost."""
    unit = max(1.0, budget / LEVELS)
    count = len(stages.runs) - 1
    least = np.full((count + 1, LEVELS + 1), np.inf)
    least[0] = 0.0
    choice = np.full((count + 1, LEVELS + 1), -1)
    for stop in range(1, count + 1):
        for number, run in enumerate(stages.runs[stop]):
            held = math.ceil(run.held / unit)
            room = math.floor((budget - run.needs) / unit)  # for what is held below the run
            if room < 0 or held > LEVELS:
                continue
            there = slice(held, min(held + room, LEVELS) + 1)
            cost = least[run.start, : there.stop - held] + run.cost
            better = cost < least[stop, there]
            np.copyto(least[stop, there], cost, where=better)
            np.copyto(choice[stop, there], number, where=better)
    limit = min(LEVELS, math.floor((budget - stages.least) / unit))
    if limit < 0 or not np.isfinite(least[count, : limit + 1]).any():
        return None
    level, stop = int(np.argmin(least[count, : limit + 1])), count
    dropped: set[int] = set()
    while stop:
        run = stages.runs[stop][int(choice[stop, level])]
        dropped.update(run.dropped)
        level, stop = level - math.ceil(run.held / unit), run.start
    return dropped
