"""Section 6, second half: dynamic programming again. A chain of operators, and what our planner's dynamic program keeps
of it, or computes again, within every budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from memograd.explain.describe import label
from memograd.lower.lower import lower
from memograd.memory.costs.storages import storages
from memograd.memory.problem import Problem, last_uses, simulate
from memograd.memory.search.chain import chain
from memograd.pipeline import capture, differentiate, plan

LENGTH, SIZE = 16, 4096  # operators of the chain, numbers in each tensor


def long_chain(x: torch.Tensor) -> torch.Tensor:
    """sin(sin(... sin(x))), summed."""
    for _ in range(LENGTH):
        x = torch.sin(x)
    return x.sum()


def plans() -> dict[str, Any]:
    """A schedule for every number of tensors that may be alive at once, from all to the fewest that any plan takes.

    Every operator costs 1, so that all numbers are whole ones and the same on every machine.
    """
    joint = differentiate(capture(long_chain, torch.linspace(-1, 1, SIZE)))
    whole = plan(joint, "100%")
    problem = replace(whole.problem, cost=(1.0,) * len(whole.problem.cost))
    nodes = [operator.node for operator in storages(lower(joint)).operators]
    tensor = SIZE * 4
    described = []
    for count in range(-(-whole.unplanned_bytes // tensor), 0, -1):
        schedule = chain(problem, min(count * tensor + tensor // 2, whole.unplanned_bytes))
        if schedule is None:
            break
        described.append(_described(problem, list(schedule), count))
    return {
        "length": LENGTH,
        "bytes": tensor,
        "operators": [{"label": label(n), "of": n.meta.get("adjoint_of", "")} for n in nodes],
        "sizes": list(problem.size),
        "outputs": [list(o) for o in problem.outputs],
        "plans": described,
    }


def _described(problem: Problem, schedule: list[int], count: int) -> dict[str, Any]:
    """The schedule, its peak, and the life of every copy as [value, from, to]."""
    usage = simulate(problem, schedule)
    lives = [[value, start, end] for (start, value), end in last_uses(problem, schedule).items()]
    return {"budget": count, "peak": usage.peak, "runs": len(schedule), "schedule": schedule, "lives": lives}
