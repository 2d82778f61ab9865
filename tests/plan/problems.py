"""Small random problems, and training-like ones of any size."""

from __future__ import annotations

import random

from memograd.plan.problem import Problem


def random_problem(seed: int, operators: int) -> Problem:
    """Operators with one or two values, some kept, some that may run only once, some ordered, some with workspace."""
    draw = random.Random(seed)
    outputs: list[tuple[int, ...]] = []
    reads: list[tuple[int, ...]] = []
    values = 0
    for _ in range(operators):
        reads.append(tuple(draw.sample(range(values), min(values, draw.choice((0, 1, 1, 2, 3))))))
        outputs.append(tuple(range(values, values + draw.choice((1, 1, 1, 2)))))
        values += len(outputs[-1])
    numbers = range(operators)
    pairs = [tuple(sorted(draw.sample(numbers, 2))) for _ in range(draw.choice((0, 0, 1, 2)))] if operators > 1 else []
    return Problem(
        cost=tuple(float(draw.randint(0, 5)) for _ in numbers),
        outputs=tuple(outputs),
        reads=tuple(reads),
        size=tuple(draw.randint(0, 9) for _ in range(values)),
        workspace=tuple(draw.choice((0, 0, 0, 4)) for _ in numbers),
        keep=frozenset(v for v in range(values) if draw.random() < 0.2),
        once=frozenset(v for v in numbers if draw.random() < 0.15),
        before=tuple((u, v) for u, v in pairs),
        resident=draw.choice((0, 7)),
    )
