"""The planner on a bare weighted graph: any computation whose nodes have a cost and a result of so many bytes."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from memograd.errors import BudgetInfeasibleError, GraphError
from memograd.memory.budget import human, parse_budget
from memograd.memory.problem import Problem, simulate

if TYPE_CHECKING:
    from memograd.memory.bounds.certificate import Bound


@dataclass(frozen=True)
class GraphPlan:
    """How to compute a graph within a budget.

    Attributes:
        schedule: the nodes in the order of computation; a node may come again.
        budget: the bytes allowed.
        peak_bytes: the most bytes that live at once.
        base_peak_bytes: the same for the graph's own order, each node computed once.
        overhead: extra cost relative to computing each node once.
    """

    schedule: list[Any]
    budget: int
    peak_bytes: int
    base_peak_bytes: int
    overhead: float
    problem: Problem

    @cached_property
    def bound(self) -> Bound:
        """What is proved about every schedule within the budget (computed when first asked for)."""
        from memograd.memory.search.solutions import solutions_of

        return solutions_of(self.problem, []).bound(self.budget)

    @property
    def lower_bound(self) -> float:
        """The overhead that no schedule within the budget gets below."""
        total = self.problem.total_cost
        return min(self.bound.any_order / total, self.overhead) if self.overhead > 0 else 0.0

    @property
    def gap(self) -> float:
        """How much of the overhead, in parts of the graph's cost, is not proved to be necessary."""
        return self.overhead - self.lower_bound

    def __str__(self) -> str:
        return (
            f"{len(self.schedule)} computations, peak {human(self.peak_bytes)} of {human(self.budget)} allowed "
            f"(all at once: {human(self.base_peak_bytes)}), {self.overhead:.2%} more cost, at least "
            f"{self.lower_bound:.2%} of it necessary"
        )


def plan_graph(digraph: Any, memory_budget: int | str) -> GraphPlan:
    """A schedule of ``digraph`` within ``memory_budget`` at the least extra cost found.

    A value lives from its computation to its last reading before it is computed again; values that nobody reads stay
    to the end. The order of computation is free: the plan may differ from the order of the graph's nodes.

    Args:
        digraph: a ``networkx.DiGraph`` whose nodes carry ``cost`` (any unit) and ``bytes``; an edge u -> v says that
            v reads the result of u.
        memory_budget: bytes, "8GiB", "600MB", or "50%" of the peak of the base order, which is the order of the
            graph's nodes if that is a valid order of computation, else a topological order.

    Returns:
        The order in which nodes run, some of them several times, its peak in bytes and its extra cost.

    Raises:
        BudgetInfeasibleError: no schedule within the budget was found; ``floor_bytes`` is the least that one needs.
        GraphError: the graph has a circle, or a node has no cost or bytes, or negative ones.
        DataError: the budget cannot be read.
    """
    from memograd.memory.search.solutions import THOROUGH, solutions_of  # it loads the compiled search

    nodes = _base_order(digraph)
    problem = _problem(digraph, nodes)
    base = simulate(problem, range(len(nodes)))
    budget = parse_budget(memory_budget, base.peak)
    store = solutions_of(problem, [])
    schedule = store.search(budget, THOROUGH)
    if schedule is None:
        schedule = store.leanest()[1]
    usage = simulate(problem, schedule)
    if usage.peak > budget:
        raise _infeasible(problem, nodes, budget, schedule)
    total = problem.total_cost  # 0 where nothing costs anything: then nothing costs more either
    overhead = max(usage.cost / total - 1, 0.0) if len(schedule) > len(nodes) and total else 0.0
    return GraphPlan([nodes[v] for v in schedule], budget, usage.peak, base.peak, overhead, problem)


def _base_order(digraph: Any) -> list[Hashable]:
    """The nodes as they are numbered if that is a valid order; else the earliest nodes first, as far as edges allow."""
    if not all(hasattr(digraph, name) for name in ("nodes", "edges", "predecessors", "successors")):
        raise GraphError(f"plan_graph takes a directed graph, as networkx.DiGraph is one, got {type(digraph).__name__}")
    nodes = list(digraph.nodes)
    number = {node: i for i, node in enumerate(nodes)}
    if all(number[u] < number[v] for u, v in digraph.edges()):
        return nodes
    waiting = {node: len(set(digraph.predecessors(node))) for node in nodes}  # parallel edges say the same
    order = [node for node in nodes if not waiting[node]]
    for node in order:  # grows while it is read
        for reader in digraph.successors(node):
            waiting[reader] -= 1
            if not waiting[reader]:
                order.append(reader)
    if len(order) < len(nodes):
        stuck = next(node for node in nodes if waiting[node])
        raise GraphError(
            f"the graph has a circle through or before node {stuck!r}; only acyclic graphs can be computed"
        )
    return order


def _problem(digraph: Any, nodes: list[Hashable]) -> Problem:
    cost, size = [], []
    for node in nodes:
        data = digraph.nodes[node]
        for name, into in (("cost", cost), ("bytes", size)):
            if not 0 <= data.get(name, -1) < math.inf:
                raise GraphError(f"node {node!r} needs a finite {name!r} of 0 or more, it has {data.get(name)!r}")
            into.append(data[name])
    number = {node: i for i, node in enumerate(nodes)}
    return Problem(
        cost=tuple(float(c) for c in cost),
        outputs=tuple((i,) for i in range(len(nodes))),
        reads=tuple(tuple(sorted(number[u] for u in digraph.predecessors(v))) for v in nodes),
        size=tuple(-int(-b // 1) for b in size),  # rounded up
        workspace=(0,) * len(nodes),
        keep=frozenset(number[v] for v in nodes if not digraph.out_degree(v)),
    )


def _infeasible(problem: Problem, nodes: list[Hashable], budget: int, leanest: list[int]) -> BudgetInfeasibleError:
    usage = simulate(problem, leanest)
    node = nodes[leanest[usage.at]]
    return BudgetInfeasibleError(
        f"a budget of {human(budget)} ({budget} bytes) is not enough: the leanest schedule found needs "
        f"{human(usage.peak)} ({usage.peak} bytes), set by node {node!r}, whose result and inputs alone take "
        f"{human(problem.needs(leanest[usage.at]))}. Smaller values there, or fewer results that stay to the end, "
        "would lower it.",
        usage.peak,
        budget,
    )
