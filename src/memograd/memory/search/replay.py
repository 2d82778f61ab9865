"""A schedule in which given values are dropped at the turn and computed again when they are next read."""

from __future__ import annotations

from collections.abc import Sequence

from memograd.memory.problem import Problem


def replay(
    problem: Problem, order: Sequence[int], turn: int, dropped: set[int], forget: bool = False, limit: int | None = None
) -> list[int]:
    """``order``, where every value of ``dropped`` that is read behind position ``turn`` is computed again first.

    What the recomputation itself reads is computed again as well when it was dropped or had died by the turn; what may
    not run again (``once``, or ``before`` an operator that has run) is kept instead, by being read.
    """
    alive = _alive(problem, order, turn)
    later: dict[int, list[int]] = {}
    for u, v in problem.before:
        later.setdefault(u, []).append(v)
    schedule = list(order[: turn + 1])
    done = set(schedule)
    there = alive - dropped  # behind the turn: kept, or computed again

    def may_run(operator: int) -> bool:
        return operator not in problem.once and not any(v in done for v in later.get(operator, ()))

    for operator in order[turn + 1 :]:
        temporary: set[int] = set()
        stack = [(operator, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                if current == operator or any(v not in there | temporary for v in problem.outputs[current]):
                    schedule.append(current)
                    (there if current == operator else temporary).update(problem.outputs[current])
                continue
            stack.append((current, True))
            for value in problem.reads[current]:
                producer = problem.producer[value]
                if value not in there and value not in temporary and may_run(producer):
                    stack.append((producer, False))
        if not forget:
            there |= temporary & dropped
        done.add(operator)
        if limit is not None and len(schedule) > limit:
            break
    return schedule


def _alive(problem: Problem, order: Sequence[int], turn: int) -> set[int]:
    """Values that were computed by the turn and are read behind it, or stay."""
    before = {v for operator in order[: turn + 1] for v in problem.outputs[operator]}
    read = {v for operator in order[turn + 1 :] for v in problem.reads[operator]}
    return before & (read | problem.keep)
