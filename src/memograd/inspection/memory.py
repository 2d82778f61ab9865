"""How much memory the forward and backward pass take: without a plan, at least, and within a budget."""

from __future__ import annotations

from memograd.errors import BackendError, BudgetInfeasibleError
from memograd.graph.graph import Graph
from memograd.inspection.report import Finding, Memory
from memograd.memory.budget import human
from memograd.pipeline import plan


def memory(joint: Graph, budget: int | str | None) -> tuple[Memory | None, list[Finding]]:
    """The numbers of a differentiated graph, and an error where the budget is too small; no numbers where no plan can
    be made (the graph calls code of the user's), which is an error where there is a budget."""
    from memograd.memory.search.solutions import solutions_of  # it loads the compiled search

    try:
        whole = plan(joint, "100%")
    except BackendError as error:
        return None, [Finding("note" if budget is None else "error", "no memory plan", str(error))]
    least, _ = solutions_of(whole.problem, [whole.unplanned]).leanest()
    numbers = Memory(whole.unplanned_bytes, least, whole.problem.resident)
    if budget is None:
        return numbers, []
    try:
        within = plan(joint, budget)
    except BudgetInfeasibleError as error:
        numbers = Memory(numbers.unplanned_bytes, error.floor_bytes, numbers.resident_bytes, error.budget_bytes)
        what = f"{human(error.budget_bytes)} is not enough: {error}"
        return numbers, [Finding("error", "memory budget", what)]
    floor = min(least, within.peak_bytes)
    return Memory(numbers.unplanned_bytes, floor, numbers.resident_bytes, within.budget, within.overhead), []
