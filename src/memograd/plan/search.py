"""Local search: simulated annealing over whole schedules, changed by one small step at a time.

After FastSA (Aldar Dautov's and others' "memory-constrained scheduling by simulated annealing"), with three steps: a
value that is about to be read is computed again (with those of its inputs that are gone, or keeping these alive), a
run that has become superfluous is removed (with those that served only it), and a run moves to another place. The
energy is the cost plus ``weight`` times the bytes over the budget, summed over the schedule; the weight swings so that
the search keeps crossing the border of what the budget allows, where the best schedules are.

Everything is deterministic: random numbers come from a seed, limits are counts of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from memograd.plan.compiled import compiled
from memograd.plan.problem import Problem
from memograd.plan.timeline import (
    EXCESS,
    last_reading,
    make_room,
    put,
    run_after,
    run_before,
    schedule_of,
    take,
    timeline,
)

DEPTH = 24  # the most runs that one step adds or removes
MODULUS = 2147483647
ROUNDS = 20  # the empty slots are spread evenly again after each


@compiled
def _draw(state, below):
    """A random number 0 <= x < below (Lehmer's generator, the same compiled or not)."""
    state[0] = state[0] * 48271 % MODULUS
    return state[0] * below // MODULUS


@compiled
def _random_run(line, state):
    """A slot that holds a run; -1 if none was found."""
    for _ in range(20):
        slot = _draw(state, len(line.runs))
        if line.runs[slot] >= 0:
            return slot
    return -1


@compiled
def _may_run_again(line, operator, slot):
    """Whether another run of ``operator`` may stand in ``slot``."""
    if line.once[operator] or line.count[operator] >= line.slots.shape[1] or line.slots[operator, 0] >= slot:
        return False
    for i in range(line.later_at[operator], line.later_at[operator + 1]):
        if line.slots[line.later[i], 0] < slot:
            return False
    return True


@compiled
def _first_reading(line, operator):
    """The slot of the first reading of anything ``operator`` produces, the number of slots if there is none."""
    first = len(line.runs)
    for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
        value = line.outputs[i]
        for j in range(line.readers_at[value], line.readers_at[value + 1]):
            first = min(first, line.slots[line.readers[j], 0])
    return first


@compiled
def recompute(line, state, value, slot, chance, depth):
    """Compute ``value`` again right before the run in ``slot``, with each of its inputs that would have to stay alive
    for it with probability ``chance`` percent, and so on. Returns the number of runs added; they stand from ``slot``.
    """
    todo = np.empty(DEPTH * 8, np.int64)
    todo[0], size, added = value, 1, 0
    while size > 0 and added < depth:
        size -= 1
        operator = line.producer[todo[size]]
        source = run_before(line, operator, slot)
        if added > 0 and (source < 0 or last_reading(line, todo[size], source, slot + added) < slot):
            continue
        if not _may_run_again(line, operator, slot) or not make_room(line, slot):
            continue
        put(line, operator, slot)
        added += 1
        for i in range(line.reads_at[operator], line.reads_at[operator + 1]):
            read = line.reads[i]
            source = line.producer[read]
            copy = run_before(line, source, slot)
            stop = run_after(line, source, slot)
            alive = (
                last_reading(line, read, copy, slot) >= slot - 2 or last_reading(line, read, copy, stop) > slot + added
            )
            if not alive and size < len(todo) and _draw(state, 100) < chance:
                todo[size] = read
                size += 1
    return added


@compiled
def _superfluous(line, slot):
    """Whether nobody reads what the run in ``slot`` makes, and the operator runs elsewhere too."""
    operator = line.runs[slot]
    if line.count[operator] < 2:
        return False
    following = run_after(line, operator, slot)
    for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
        if last_reading(line, line.outputs[i], slot, following) > slot:
            return False
    return True


@compiled
def remove(line, slot, undo):
    """Remove the run in ``slot`` and those that served only it. Returns how many; ``undo`` holds (operator, slot)."""
    todo = np.empty(DEPTH * 8, np.int64)
    todo[0], size, removed = slot, 1, 0
    while size > 0 and removed < DEPTH:
        size -= 1
        slot = todo[size]
        operator = line.runs[slot]
        if operator < 0 or (removed > 0 and not _superfluous(line, slot)):
            continue
        take(line, slot)
        undo[removed, 0], undo[removed, 1] = operator, slot
        removed += 1
        for i in range(line.reads_at[operator], line.reads_at[operator + 1]):
            copy = run_before(line, line.producer[line.reads[i]], slot)
            if size < len(todo):
                todo[size] = copy
                size += 1
    return removed


@compiled
def _removable(line, slot):
    """Whether the schedule stays executable without the run in ``slot``."""
    operator = line.runs[slot]
    if line.count[operator] < 2:
        return False
    return line.slots[operator, 0] != slot or _first_reading(line, operator) > line.slots[operator, 1]


@compiled
def _range_of(line, slot):
    """The slots, both excluded, between which the run in ``slot`` may move."""
    operator = line.runs[slot]
    low, high = -1, len(line.runs) - 1
    for i in range(line.reads_at[operator], line.reads_at[operator + 1]):
        low = max(low, line.slots[line.producer[line.reads[i]], 0])
    for i in range(line.earlier_at[operator], line.earlier_at[operator + 1]):
        other = line.earlier[i]
        low = max(low, line.slots[other, line.count[other] - 1])
    for i in range(line.later_at[operator], line.later_at[operator + 1]):
        high = min(high, line.slots[line.later[i], 0])
    if line.slots[operator, 0] == slot:
        high = min(high, _first_reading(line, operator))
    return low, high


@compiled
def _destination(line, state, slot):
    """An empty slot to which the run in ``slot`` may move, near or far; -1 if none was found."""
    low, high = _range_of(line, slot)
    kind = _draw(state, 4)
    if kind == 0:  # anywhere
        target = low + 1 + _draw(state, max(high - low - 1, 1))
    elif kind == 1:  # as late as its next reading allows
        operator = line.runs[slot]
        target = run_after(line, operator, slot)
        for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
            value = line.outputs[i]
            for j in range(line.readers_at[value], line.readers_at[value + 1]):
                target = min(target, run_after(line, line.readers[j], slot))
        high = min(high, target)
        target = high - 1
    else:
        reach = 4 if kind == 2 else 32
        target = slot - reach + _draw(state, 2 * reach + 1)
    step = 1 if _draw(state, 2) == 0 and kind != 1 else -1
    while low < target < high and line.runs[target] >= 0:
        target += step
    return target if low < target < high else -1


@compiled
def _to_recompute(line, state, slot):
    """A value and the slot before which to compute it again: one that the run in ``slot`` reads, or one that it makes
    and that has to be there in the end. The value is -1 if that would be pointless."""
    operator = line.runs[slot]
    first, count = line.reads_at[operator], line.reads_at[operator + 1] - line.reads_at[operator]
    if count == 0 or _draw(state, 8) == 0:
        for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
            if line.keep[line.outputs[i]]:
                return line.outputs[i], slot + 1 + _draw(state, len(line.runs) - slot)
        return -1, slot
    value = line.reads[first + _draw(state, count)]
    if last_reading(line, value, run_before(line, line.producer[value], slot), slot) >= slot - 1:
        return -1, slot
    return value, slot


@compiled
def _change(line, state, undo, reorder, dearest):
    """Change the schedule a little; nothing dearer than ``dearest`` is added while the budget holds.

    Returns what changed: (kind, slot, count, change of cost), kind -1 for nothing.
    """
    slot = _random_run(line, state)
    if slot < 0:
        return -1, 0, 0, 0.0
    operator = line.runs[slot]
    choice = _draw(state, 10)
    over = line.total[EXCESS] > 0
    if reorder or choice < 4:  # move
        target = _destination(line, state, slot)
        if target < 0:
            return -1, 0, 0, 0.0
        take(line, slot)
        put(line, operator, target)
        undo[0, 0], undo[0, 1] = operator, slot
        return 2, target, 1, 0.0
    if choice < (6 if over else 9):  # remove
        for _ in range(10):
            if slot >= 0 and _removable(line, slot):
                change = 0.0
                removed = remove(line, slot, undo)
                for i in range(removed):
                    change -= line.cost[undo[i, 0]]
                return 1, slot, removed, change
            slot = _random_run(line, state)
        return -1, 0, 0, 0.0
    value, slot = _to_recompute(line, state, slot)
    if value < 0 or (not over and line.cost[line.producer[value]] > dearest):
        return -1, 0, 0, 0.0
    added = recompute(line, state, value, slot, 25 * _draw(state, 5), DEPTH)
    change = 0.0
    for i in range(added):
        change += line.cost[line.runs[slot + i]]
    return 0, slot, added, change


@compiled
def _step_back(line, undo, kind, slot, count):
    if kind == 0:
        for i in range(count):
            take(line, slot + i)
    elif kind == 1:
        for i in range(count - 1, -1, -1):
            put(line, undo[i, 0], undo[i, 1])
    elif kind == 2:
        take(line, slot)
        put(line, undo[0, 0], undo[0, 1])


@compiled
def _accept(line, state, undo, reorder, price, weight, temperature):
    """One step, taken back if it is too bad for the temperature. Returns the change of cost."""
    before = line.total[EXCESS]
    worst = -temperature * math.log((_draw(state, MODULUS) + 1) / MODULUS)  # accepts with exp(-energy / temperature)
    kind, slot, count, change = _change(line, state, undo, reorder, worst / price if price > 0 else math.inf)
    energy = price * change + weight * (line.total[EXCESS] - before)
    if energy > worst:
        _step_back(line, undo, kind, slot, count)
        return 0.0
    return change


@compiled
def _anneal(line, state, steps, hot, cold, weight, cost, best, best_runs):
    """``steps`` steps while the temperature falls from ``hot`` to ``cold``; the best schedule goes into best_runs."""
    undo = np.empty((DEPTH, 2), np.int64)
    cooling = (cold / hot) ** (1.0 / steps)
    period = min(64, max(1, steps // 100))
    for step in range(steps):
        hot *= cooling
        cost += _accept(line, state, undo, False, 1.0, weight, hot)
        if line.total[EXCESS] == 0 and cost < best:
            best = cost
            best_runs[:] = line.runs
        if step % period == 0:
            weight *= 1.02 if line.total[EXCESS] > 0 else 0.985
    return weight, best


@compiled
def _fit(line, state, steps, hot, cold, price, reorder):
    """Up to ``steps`` steps, until nothing exceeds the budget; the temperature is one of bytes."""
    undo = np.empty((DEPTH, 2), np.int64)
    cooling = (cold / hot) ** (1.0 / steps)
    for _ in range(steps):
        if line.total[EXCESS] == 0:
            return
        hot *= cooling
        _accept(line, state, undo, reorder, price, 1.0, hot)


def anneal(
    problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0
) -> list[int] | None:
    """The best schedule within ``budget`` met on the way from ``start`` (which need not be within it)."""
    schedule, found, best = list(start), None, math.inf
    state = np.array([seed], np.int64)
    mean = _mean(problem.cost)
    weight = mean / (max(problem.size) * len(schedule) / 8)
    hot, cooling = heat * mean, 1e-3 ** (1 / ROUNDS)
    for _ in range(ROUNDS):
        line = timeline(problem, schedule, budget)
        cost = sum(problem.cost[v] for v in schedule)
        if line.total[EXCESS] == 0 and cost < best:
            best, found = cost, schedule
        best_runs = np.full_like(line.runs, -1)
        steps_now = max(steps // ROUNDS, 1)
        weight, reached = _anneal(line, state, steps_now, hot, hot * cooling, weight, cost, best, best_runs)
        hot *= cooling
        if reached < best - 1e-9 * problem.total_cost:
            best, found = reached, [int(v) for v in best_runs if v >= 0]
        schedule = schedule_of(line)
    return found


def reorder(
    problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0
) -> list[int]:
    """The runs of ``start`` in an order that exceeds the budget less, if possible not at all."""
    line = timeline(problem, start, budget)
    hot = heat * _mean(problem.size)
    _fit(line, np.array([seed], np.int64), max(steps, 1), hot, 0.01 * hot, 0.0, True)
    return schedule_of(line)


def fit(problem: Problem, start: Sequence[int], budget: int, steps: int, seed: int = 1, heat: float = 1.0) -> list[int]:
    """A schedule that exceeds the budget less than ``start``, if possible not at all, with little regard to cost."""
    schedule, state = list(start), np.array([seed], np.int64)
    size = _mean(problem.size)
    hot, cooling = heat * size, 1e-2 ** (1 / ROUNDS)
    for _ in range(ROUNDS):
        line = timeline(problem, schedule, budget)
        if line.total[EXCESS] > 0:
            price = 0.1 * size / _mean(problem.cost)
            _fit(line, state, max(steps // ROUNDS, 1), hot, hot * cooling, price, False)
        hot *= cooling
        schedule = schedule_of(line)
    return schedule


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(len(numbers), 1) or 1.0
