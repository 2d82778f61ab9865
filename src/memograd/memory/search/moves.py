"""The steps of the search: small changes of a schedule that keep it executable, and how to take them back.

A value that is about to be read is computed again, with those of its inputs that are gone or keeping these alive; a
run that has become superfluous is removed, with those that served only it; a value is computed again in exchange for
others that then need not be; a run moves to another place.
"""

from __future__ import annotations

import numpy as np

from memograd.memory.search.compiled import compiled
from memograd.memory.search.timeline import BUDGET, EXCESS, last_reading, make_room, put, run_after, run_before, take

DEPTH = 24  # the most runs that one step adds or removes
TRIES = 8  # runs that an exchange tries to remove
NOTHING, MOVE, OTHER = -1, 0, 1  # kinds of change
MODULUS = 2147483647  # of the random numbers


@compiled
def draw(state, below):
    """A random number 0 <= x < below (Lehmer's generator, the same compiled or not)."""
    state[0] = state[0] * 48271 % MODULUS
    return state[0] * below // MODULUS


@compiled
def _random_run(line, state):
    """A slot that holds a run; -1 if none was found."""
    for _ in range(20):
        slot = draw(state, len(line.runs))
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
            if not alive and size < len(todo) and draw(state, 100) < chance:
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
    kind = draw(state, 4)
    if kind == 0:  # anywhere
        target = low + 1 + draw(state, max(high - low - 1, 1))
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
        target = slot - reach + draw(state, 2 * reach + 1)
    step = 1 if draw(state, 2) == 0 and kind != 1 else -1
    while low < target < high and line.runs[target] >= 0:
        target += step
    return target if low < target < high else -1


@compiled
def _to_recompute(line, state, slot):
    """A value and the slot before which to compute it again: one that the run in ``slot`` reads, or one that it makes
    and that has to be there in the end. The value is -1 if that would be pointless."""
    operator = line.runs[slot]
    first, count = line.reads_at[operator], line.reads_at[operator + 1] - line.reads_at[operator]
    if count == 0 or draw(state, 8) == 0:
        for i in range(line.outputs_at[operator], line.outputs_at[operator + 1]):
            if line.keep[line.outputs[i]]:
                return line.outputs[i], slot + 1 + draw(state, len(line.runs) - slot)
        return -1, slot
    value = line.reads[first + draw(state, count)]
    if last_reading(line, value, run_before(line, line.producer[value], slot), slot) >= slot - 1:
        return -1, slot
    return value, slot


@compiled
def _idle(line, state):
    """A value that waits unread where the budget is exceeded, and the slot of its next reading; -1 if none is found."""
    crowded = draw(state, len(line.runs))
    while line.live[crowded] <= line.total[BUDGET]:
        crowded = (crowded + 1) % len(line.runs)
    for _ in range(20):
        slot = crowded + 1 + draw(state, max(len(line.runs) - crowded - 1, 1))
        operator = line.runs[slot] if slot < len(line.runs) else -1
        count = line.reads_at[operator + 1] - line.reads_at[operator] if operator >= 0 else 0
        if count == 0:
            continue
        value = line.reads[line.reads_at[operator] + draw(state, count)]
        source = run_before(line, line.producer[value], slot)
        if source < crowded and last_reading(line, value, source, slot) < crowded:
            return value, slot
    return -1, 0


@compiled
def _random_removable(line, state, slot):
    """``slot`` or another one, whose run may be removed; -1 if none was found."""
    for _ in range(10):
        if slot >= 0 and _removable(line, slot):
            return slot
        slot = _random_run(line, state)
    return -1


@compiled
def _remove_what_is_free(line, state, start, stop, undo):
    """Remove runs outside of ``start`` to ``stop`` as long as the budget holds. Returns how many."""
    removed = 0
    for _ in range(TRIES):
        slot = _random_removable(line, state, _random_run(line, state))
        if slot < 0 or start <= slot < stop or removed > (TRIES - 1) * DEPTH:
            continue
        more = remove(line, slot, undo[removed:])
        if line.total[EXCESS] > 0:
            _put_back(line, undo, removed, removed + more)
        else:
            removed += more
    return removed


@compiled
def _put_back(line, undo, start, stop):
    """What ``undo`` says was removed, last first."""
    for i in range(stop - 1, start - 1, -1):
        put(line, undo[i, 0], undo[i, 1])


@compiled
def _cost_of(line, undo, removed):
    cost = 0.0
    for i in range(removed):
        cost += line.cost[undo[i, 0]]
    return cost


@compiled
def change(line, state, undo, reorder, dearest):
    """Change the schedule a little; nothing dearer than ``dearest`` is added alone while the budget holds.

    Returns what changed: (kind, slot, runs added from there, runs removed as ``undo`` says, change of cost).
    """
    slot = _random_run(line, state)
    if slot < 0:
        return NOTHING, 0, 0, 0, 0.0
    operator = line.runs[slot]
    choice = draw(state, 10)
    over = line.total[EXCESS] > 0
    if reorder or choice < 4:  # move
        target = _destination(line, state, slot)
        if target < 0:
            return NOTHING, 0, 0, 0, 0.0
        take(line, slot)
        put(line, operator, target)
        undo[0, 0], undo[0, 1] = operator, slot
        return MOVE, target, 1, 1, 0.0
    if choice < (6 if over else 9):  # remove
        slot = _random_removable(line, state, slot)
        if slot < 0:
            return NOTHING, 0, 0, 0, 0.0
        removed = remove(line, slot, undo)
        return OTHER, 0, 0, removed, -_cost_of(line, undo, removed)
    value, slot = _idle(line, state) if over and choice < 9 else _to_recompute(line, state, slot)
    exchange = not over and draw(state, 4) > 0
    if value < 0 or (not over and not exchange and line.cost[line.producer[value]] > dearest):
        return NOTHING, 0, 0, 0, 0.0
    added = recompute(line, state, value, slot, 25 * draw(state, 5), DEPTH)
    change = 0.0
    for i in range(added):
        change += line.cost[line.runs[slot + i]]
    removed = _remove_what_is_free(line, state, slot, slot + added, undo) if exchange and added > 0 else 0
    return OTHER, slot, added, removed, change - _cost_of(line, undo, removed)


@compiled
def step_back(line, undo, kind, slot, added, removed):
    if kind == MOVE:
        take(line, slot)
        put(line, undo[0, 0], undo[0, 1])
        return
    _put_back(line, undo, 0, removed)
    for i in range(added):
        take(line, slot + i)
