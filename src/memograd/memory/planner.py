"""Plan one graph: measure its operators, find a schedule within the budget, prove how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memograd.errors import BudgetInfeasibleError
from memograd.graph.graph import Graph
from memograd.memory.budget import human, parse_budget
from memograd.memory.costs.measure import Measurement, measure
from memograd.memory.costs.storages import Storages, storages
from memograd.memory.emit import fingerprint, source
from memograd.memory.plan import Plan
from memograd.memory.problem import Problem, simulate
from memograd.memory.search.solutions import solutions_of


def make_plan(graph: Graph, memory_budget: int | str | Plan, at_least: int = 0) -> Plan:
    """The plan of a lowered graph.

    Args:
        memory_budget: bytes, "8GiB", "50%" of the unplanned peak, or a plan made for this graph before.
        at_least: bytes that a share may use in any case.

    Raises:
        BudgetInfeasibleError: no schedule within the budget was found.
        PlanViolationError: a given plan is for another graph.
        DataError: the budget cannot be read.
    """
    step = storages(graph)
    if isinstance(memory_budget, Plan):
        return _given(step, memory_budget)
    measured = measure(step)
    problem = step.problem(
        [m.seconds for m in measured], [m.workspace for m in measured], [m.results for m in measured]
    )
    budget = max(at_least, parse_budget(memory_budget, simulate(problem, step.unplanned).peak))
    solutions = solutions_of(problem, [step.unplanned])
    schedule = solutions.search(budget)
    if schedule is None:
        least, schedule = solutions.leanest()
        if least > budget:
            raise _infeasible(step, problem, budget, schedule)
    return _plan(step, measured, problem, budget, schedule).checked()


def _given(step: Storages, plan: Plan) -> Plan:
    """A plan made before, perhaps in another process: checked with what its operators allocate here and now."""
    plan.check_graph(step)
    measured = measure(step)
    problem = step.problem(plan.problem.cost, [m.workspace for m in measured], [m.results for m in measured])
    bound = plan.bound if problem == plan.problem else None  # it was proven for the bytes of then
    return replace(plan, problem=problem, bound=bound, code=source(step, plan.schedule)).checked()


def _plan(
    step: Storages, measured: Sequence[Measurement], problem: Problem, budget: int, schedule: Sequence[int]
) -> Plan:
    unplanned = step.unplanned
    recomputes = len(schedule) > len(problem.cost)
    devices = {n.meta["val"].device for n in step.graph.placeholders}
    return Plan(
        budget=budget,
        schedule=tuple(schedule),
        operators=tuple(o.name for o in step.operators),
        modules=tuple(o.node.meta.get("module") or "" for o in step.operators),
        phases=tuple(o.phase for o in step.operators),
        unplanned=unplanned,
        problem=problem,
        bound=None if recomputes else 0.0,
        fingerprint=fingerprint(step),
        device=", ".join(sorted(map(str, devices))),
        measured=not any(m.modelled for m in measured),
        code=source(step, schedule),
    )


def _infeasible(step: Storages, problem: Problem, budget: int, leanest: Sequence[int]) -> BudgetInfeasibleError:
    """What the least budget is, who sets it, and what would lower it."""
    usage = simulate(problem, leanest)
    what = step.operators[leanest[usage.at]]
    meta = what.node.meta
    line = meta.get("source")
    places = {
        "in the optimizer's update of": meta.get("update_of"),
        "in": meta.get("module"),
        "at": line if line and "<" not in line else None,
    }
    where = "".join(f" {word} {place}" for word, place in places.items() if place)
    return BudgetInfeasibleError(
        f"a budget of {human(budget)} ({budget} bytes) is not enough: the leanest schedule of this step needs "
        f"{human(usage.peak)} ({usage.peak} bytes), set by {what.name}{where}. {human(problem.resident)} of it are "
        "parameters, buffers, optimizer state and inputs. A smaller batch, a smaller largest layer, a lower precision "
        "or an optimizer with less state would lower it.",
        usage.peak,
        budget,
    )
