"""Small random problems, and training-like ones of any size."""

from __future__ import annotations

import random
from dataclasses import replace

from memograd.memory.problem import Problem


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


def drawing(problem: Problem, seed: int) -> Problem:
    """The same, with some draws: operators that need a value, and more workspace, to run again."""
    draw = random.Random(seed)
    workspace, once, replays = list(problem.workspace), set(problem.once), []
    for operator, read in enumerate(problem.reads):
        for value in read:
            producer = problem.producer[value]
            alone = len(problem.outputs[producer]) == 1 and sum(value in r for r in problem.reads) == 1
            if alone and value not in problem.keep and operator not in once and draw.random() < 0.33:
                once.add(producer)
                replays.append((operator, value, workspace[operator]))
                workspace[operator] = max(2 * problem.size[value], problem.size[value] + workspace[operator])
                break
    return replace(problem, workspace=tuple(workspace), once=frozenset(once), replays=tuple(replays))
