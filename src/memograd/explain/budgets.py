"""Forward and backward within several byte budgets: schedules, bytes at each moment, what lies in memory, as data."""

from __future__ import annotations

from typing import Any

from memograd.explain.describe import Describer, label, shown
from memograd.graph.graph import Graph
from memograd.graph.printing import describe
from memograd.lower.lower import lower
from memograd.memory.costs.storages import Storages, storages
from memograd.memory.plan import Plan
from memograd.memory.problem import Problem, simulate
from memograd.memory.search.solutions import QUICK, solutions_of
from memograd.pipeline import plan
from memograd.rules.registry import lookup

_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # of the unplanned peak: other budgets that are tried
_MANY = 400  # operators of a step above which only every other one is


def budgets(joint: Graph, memory_budget: int | str | Plan, describer: Describer) -> dict[str, Any]:
    """The plan within ``memory_budget``, those within shares of the unplanned peak, and the step without a plan.

    Raises:
        BudgetInfeasibleError: no schedule fits ``memory_budget``.
    """
    asked = plan(joint, memory_budget)
    step = storages(lower(joint))
    problem = asked.problem
    others = [_without_plan(problem, asked.unplanned), *_others(problem, asked)]
    first = _described(problem, asked.schedule, asked.budget) | {"asked": True, "bound": asked.lower_bound}
    return {
        "asked": asked.budget,
        "floor": asked.floor_bytes,
        "resident": problem.resident,
        "device": asked.device,
        "measured": asked.measured,
        "total": problem.total_cost,
        "operators": _operators(step, asked, describer),
        "values": _values(step, problem),
        "outputs": [list(o) for o in problem.outputs],
        "reads": [list(r) for r in problem.reads],
        "keep": sorted(problem.keep),
        "plans": sorted([first, *others], key=lambda p: -p["budget"]),
    }


def _without_plan(problem: Problem, schedule: tuple[int, ...]) -> dict[str, Any]:
    peak = simulate(problem, schedule).peak
    return _described(problem, schedule, peak) | {"unplanned": True}


def _others(problem: Problem, asked: Plan) -> list[dict[str, Any]]:
    store = solutions_of(problem, [asked.unplanned])
    shares = _SHARES[:: 2 if len(problem.cost) > _MANY else 1]
    tried: list[dict[str, Any]] = []
    for share in shares:
        budget = int(share * asked.unplanned_bytes)
        schedule = store.search(budget, ((QUICK, 0.0005),))
        if schedule is None:
            break
        tried.append(_described(problem, schedule, budget))
    return tried


def _described(problem: Problem, schedule: Any, budget: int) -> dict[str, Any]:
    usage = simulate(problem, schedule)
    return {
        "budget": budget,
        "peak": usage.peak,
        "at": usage.at,
        "extra": max(0.0, usage.cost - problem.total_cost),
        "schedule": list(schedule),
        "profile": usage.profile,
    }


def _operators(step: Storages, asked: Plan, describer: Describer) -> list[dict[str, Any]]:
    described = []
    for k, operator in enumerate(step.operators):
        node = operator.node
        rule = lookup(node.target)
        described.append(
            {
                "name": asked.operators[k],
                "label": label(node),
                "phase": asked.phases[k],
                "module": shown(asked.modules[k], describer.root),
                "seconds": asked.problem.cost[k],
                "of": node.meta.get("adjoint_of", ""),
                "source": node.meta.get("source", ""),
                "line": node.meta.get("line", ""),
                "rule": rule.formula if rule is not None else "",
            }
        )
    return described


def _values(step: Storages, problem: Problem) -> list[dict[str, Any]]:
    """Of each value its bytes and geometry."""
    geometry = {v: describe(n.meta["val"]) for n, v in reversed(step.owner.items()) if v is not None}
    return [{"bytes": size, "what": geometry.get(v, "")} for v, size in enumerate(problem.size)]
