"""A schedule that can be changed run by run, its memory profile kept up to date with every change.

The runs of a schedule stand in slots, about half of which are empty, so that a run can be put anywhere without moving
the others; the last slot stays empty, it stands for the end. ``live[slot]`` is the number of live bytes while the run
in that slot executes; an empty slot holds the bytes that live across it less ``EMPTY``, so that it never exceeds a
budget. Putting in or taking out a run changes the lifetimes of the copies it makes and of those it reads, and nothing
else: a few additions to ranges of ``live``.

The functions work on a ``Timeline`` of arrays; ``search.c`` has them once more (see ``compiled``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memograd.memory.problem import Problem
from memograd.memory.search.compiled import compiled, library, njit

EMPTY = 1 << 60

EXCESS, BUDGET = 0, 1  # places in Timeline.total


class Timeline(NamedTuple):
    """The problem as arrays (pairs ``x_at``, ``x`` hold the lists of row i in x[x_at[i]:x_at[i + 1]]), and the runs."""

    cost: np.ndarray
    once: np.ndarray
    workspace: np.ndarray
    outputs_at: np.ndarray
    outputs: np.ndarray
    reads_at: np.ndarray
    reads: np.ndarray
    readers_at: np.ndarray
    readers: np.ndarray
    earlier_at: np.ndarray
    earlier: np.ndarray
    later_at: np.ndarray
    later: np.ndarray
    producer: np.ndarray
    size: np.ndarray
    keep: np.ndarray
    runs: np.ndarray  # slot -> operator, -1 where empty
    live: np.ndarray  # slot -> bytes
    slots: np.ndarray  # operator, i -> slot of its i-th run
    count: np.ndarray  # operator -> number of its runs
    total: np.ndarray  # [EXCESS]: bytes over the budget, summed over the slots; [BUDGET]: the budget


def _rows(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    at = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(r) for r in rows], out=at[1:])
    return at, np.array([x for r in rows for x in r], np.int64)


def timeline(problem: Problem, schedule: Sequence[int], budget: int) -> Timeline:
    """The timeline of a valid schedule, every second slot of it empty."""
    n, values = len(problem.cost), len(problem.size)
    reads = [sorted(set(r)) for r in problem.reads]
    readers: list[list[int]] = [[] for _ in range(values)]
    for operator, read in enumerate(reads):
        for value in read:
            readers[value].append(operator)
    earlier: list[list[int]] = [[] for _ in range(n)]
    later: list[list[int]] = [[] for _ in range(n)]
    for u, v in problem.before:
        earlier[v].append(u)
        later[u].append(v)
    keep, once = np.zeros(values, np.bool_), np.zeros(n, np.bool_)
    keep[list(problem.keep)] = True
    once[list(problem.once)] = True
    length = 2 * len(schedule) + 64
    copies = int(np.bincount(np.array(schedule, np.int64), minlength=n).max(initial=1)) + 8
    result = Timeline(
        np.array(problem.cost, np.float64),
        once,
        np.array(problem.workspace, np.int64),
        *_rows(problem.outputs),
        *_rows(reads),
        *_rows(readers),
        *_rows(earlier),
        *_rows(later),
        np.array(problem.producer, np.int64),
        np.array(problem.size, np.int64),
        keep,
        np.full(length, -1, np.int64),
        np.full(length, problem.resident - EMPTY, np.int64),
        np.zeros((n, copies), np.int64),
        np.zeros(n, np.int64),
        np.array([0, budget], np.int64),
    )
    (fill if (c := library()) is None else c.fill)(result, np.array(schedule, np.int64))
    return result


def schedule_of(line: Timeline) -> list[int]:
    """The operators in the order of their runs."""
    return [int(v) for v in line.runs if v >= 0]


@compiled
def run_before(line, operator, slot):
    """The slot of the last run of ``operator`` before ``slot``, -1 if there is none."""
    for i in range(line.count[operator] - 1, -1, -1):
        if line.slots[operator, i] < slot:
            return line.slots[operator, i]
    return -1


@compiled
def run_after(line, operator, slot):
    """The slot of the first run of ``operator`` after ``slot``, the number of slots if there is none."""
    for i in range(line.count[operator]):
        if line.slots[operator, i] > slot:
            return line.slots[operator, i]
    return len(line.runs)


@compiled
def last_reading(line, value, start, stop):
    """The slot of the last reading of ``value`` between ``start`` and ``stop``, where its copy is replaced; ``start``
    if nobody reads it. A kept value's newest copy is read at the end."""
    if stop == len(line.runs) and line.keep[value]:
        return stop - 1
    last = start
    for i in range(line.readers_at[value], line.readers_at[value + 1]):
        last = max(last, run_before(line, line.readers[i], stop))
    return last


def _add_loop(line, start, stop, amount):
    budget = line.total[BUDGET]
    excess = 0
    for slot in range(start, stop):
        old = line.live[slot]
        new = old + amount
        line.live[slot] = new
        excess += max(new - budget, 0) - max(old - budget, 0)
    line.total[EXCESS] += excess


def _add_array(line, start, stop, amount):
    part, budget = line.live[start:stop], line.total[BUDGET]
    before = np.maximum(part - budget, 0).sum()
    part += amount
    line.total[EXCESS] += np.maximum(part - budget, 0).sum() - before


# Live bytes from slot ``start`` up to, not including, ``stop`` change by ``amount``.
add = _add_array if njit is None else compiled(_add_loop)


@compiled
def _touch(line, operator, slot, sign):
    """What the run of ``operator`` in ``slot`` changes in the profile, given all other runs: there or gone."""
    for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
        value = line.outputs[i]
        previous, following = run_before(line, operator, slot), run_after(line, operator, slot)
        last = last_reading(line, value, slot, following)
        if previous >= 0 and last > slot:  # this run takes the later readings over from the previous one
            add(line, last_reading(line, value, previous, slot) + 1, slot, -sign * line.size[value])
        else:
            add(line, slot, last + 1, sign * line.size[value])
    for i in range(line.reads_at[operator], line.reads_at[operator + 1]):
        value = line.reads[i]
        source = line.producer[value]
        copy = run_before(line, source, slot)
        last = last_reading(line, value, copy, run_after(line, source, slot))
        if last < slot:
            add(line, last + 1, slot + 1, sign * line.size[value])


@compiled
def put(line, operator, slot):
    """Run ``operator`` in the empty ``slot``."""
    add(line, slot, slot + 1, EMPTY + line.workspace[operator])
    _touch(line, operator, slot, 1)
    line.runs[slot] = operator
    i = line.count[operator]
    while i > 0 and line.slots[operator, i - 1] > slot:
        line.slots[operator, i] = line.slots[operator, i - 1]
        i -= 1
    line.slots[operator, i] = slot
    line.count[operator] += 1


@compiled
def take(line, slot):
    """Empty ``slot``."""
    operator = line.runs[slot]
    line.runs[slot] = -1
    line.count[operator] -= 1
    i = 0
    while line.slots[operator, i] != slot:
        i += 1
    for j in range(i, line.count[operator]):
        line.slots[operator, j] = line.slots[operator, j + 1]
    _touch(line, operator, slot, -1)
    add(line, slot, slot + 1, -EMPTY - line.workspace[operator])


@compiled
def make_room(line, slot):
    """Empty ``slot``: the runs from there up to the next empty slot move right by one. False if there is none."""
    stop = slot
    while stop < len(line.runs) and line.runs[stop] >= 0:
        stop += 1
    if stop >= len(line.runs) - 1:
        return False
    for target in range(stop, slot, -1):
        operator = line.runs[target - 1]
        for i in range(line.count[operator]):
            if line.slots[operator, i] == target - 1:
                line.slots[operator, i] = target
        line.runs[target] = operator
        line.live[target] = line.live[target - 1]
    if stop > slot:  # what lives across is what lives in the run that stood here, less what that run adds
        operator = line.runs[slot + 1]
        line.live[slot] -= EMPTY + line.workspace[operator]
        for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
            line.live[slot] -= line.size[line.outputs[i]]
        line.runs[slot] = -1
    return True


@compiled
def fill(line, schedule):
    """Put the runs of ``schedule`` into every second slot of an empty timeline."""
    for position in range(len(schedule)):
        put(line, schedule[position], 2 * position + 1)
