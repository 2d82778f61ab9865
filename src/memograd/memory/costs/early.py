"""Updates as early as they can come: a gradient that is used up at once need not wait for all the others."""

from __future__ import annotations

from collections.abc import Sequence

from memograd.errors import GraphError


def early(needs: Sequence[Sequence[int]], updates: Sequence[bool]) -> list[int]:
    """An order of the operators 0..n-1 that keeps all others in place and moves each update (``updates[k]``) to behind
    the last operator it waits for, with what only it needs.

    Args:
        needs: for each operator those that must come before it.

    Raises:
        GraphError: some updates wait for each other.
    """
    count = len(needs)
    ready = [-1 if updates[k] else k for k in range(count)]
    settled = [not u for u in updates]
    for k in _before(needs, range(count)):
        if not settled[k]:
            ready[k], settled[k] = max((ready[n] for n in needs[k]), default=-1), True
    leads = {n for k in range(count) if updates[k] for n in needs[k] if updates[n]}
    waiting: dict[int, list[int]] = {}
    for k in range(count):
        if updates[k] and k not in leads:
            waiting.setdefault(ready[k], []).append(k)
    first = [*waiting.get(-1, [])]
    for k in range(count):
        if not updates[k]:
            first += [k, *waiting.get(k, [])]
    return _before(needs, first)


def _before(needs: Sequence[Sequence[int]], nodes: Sequence[int]) -> list[int]:
    """``nodes`` in order, each behind what it needs (depth first, without recursion)."""
    done: dict[int, bool] = {}  # False while its needs are being placed
    order: list[int] = []
    for root in nodes:
        stack = [(root, False)]
        while stack:
            k, placed = stack.pop()
            if placed:
                done[k] = True
                order.append(k)
            elif k not in done:
                done[k] = False
                stack.append((k, True))
                stack += [(n, False) for n in reversed(needs[k]) if not done.get(n)]
            elif not done[k]:
                raise GraphError("the step writes inputs in a circle (a swap in place); no order of writes can do that")
    return order
