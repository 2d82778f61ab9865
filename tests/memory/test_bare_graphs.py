"""plan_graph on bare weighted graphs, judged by a referee that knows nothing of the planner."""

from __future__ import annotations

import random
from typing import Any

import pytest
from exhaustive import least_cost

from memograd.errors import BudgetInfeasibleError, DataError, GraphError
from memograd.memory.bare_graphs import plan_graph

nx = pytest.importorskip("networkx")


def peak_and_cost(graph: Any, schedule: list[Any]) -> tuple[int, float]:
    """Live intervals added up instant by instant; KeyError if something is read before it is computed."""
    lives: list[list[Any]] = []  # [node, computed at, last read at]
    newest: dict[Any, list[Any]] = {}
    for time, node in enumerate(schedule):
        for source in graph.predecessors(node):
            newest[source][2] = time
        newest[node] = [node, time, time]
        lives.append(newest[node])
    assert set(newest) == set(graph), "every node is computed"
    for node in graph:
        if not graph.out_degree(node):
            newest[node][2] = len(schedule) - 1
    size = graph.nodes
    peak = max(sum(size[n]["bytes"] for n, a, b in lives if a <= time <= b) for time in range(len(schedule)))
    return peak, sum(size[node]["cost"] for node in schedule)


def training_chain(depth: int, byte: int = 100) -> Any:
    """Forward f0 .. f(depth-1); backward b(i) reads f(i) and b(i+1): the textbook case of checkpointing."""
    graph = nx.DiGraph()
    graph.add_nodes_from((f"f{i}", {"cost": 1, "bytes": byte}) for i in range(depth))
    graph.add_nodes_from((f"b{i}", {"cost": 1, "bytes": byte}) for i in reversed(range(depth)))
    for i in range(depth):
        graph.add_edge(f"f{i}", f"b{i}")
        if i:
            graph.add_edge(f"f{i - 1}", f"f{i}")
            graph.add_edge(f"b{i}", f"b{i - 1}")
    graph.add_edge(f"f{depth - 1}", f"b{depth - 1}")
    return graph


def layered(seed: int, count: int) -> Any:
    draw = random.Random(seed)
    graph = nx.DiGraph()
    for i in range(count):
        graph.add_node(i, cost=draw.randint(0, 9), bytes=draw.randint(1, 99))
        graph.add_edges_from((draw.randrange(max(0, i - 12), i), i) for _ in range(draw.randint(1, 3)) if i)
    return graph


@pytest.mark.parametrize(
    "graph", [training_chain(12), layered(1, 40), layered(2, 60)], ids=["chain", "40 nodes", "60 nodes"]
)
def test_plans_keep_what_they_promise(graph: Any) -> None:
    overheads = []
    for percent in (100, 90, 80, 70):
        try:
            plan = plan_graph(graph, f"{percent}%")
        except BudgetInfeasibleError:
            break
        peak, cost = peak_and_cost(graph, plan.schedule)
        assert peak == plan.peak_bytes <= plan.budget
        assert plan.budget == plan.base_peak_bytes * percent // 100
        assert cost / sum(graph.nodes[n]["cost"] for n in graph) - 1 == pytest.approx(plan.overhead)
        assert 0 <= plan.lower_bound <= plan.overhead and plan.gap == pytest.approx(plan.overhead - plan.lower_bound)
        overheads.append(plan.overhead)
    assert overheads and overheads[0] == 0 and overheads == sorted(overheads)


@pytest.mark.parametrize("budget", [300, 400, 500])
def test_a_chain_costs_no_more_than_it_must(budget: int) -> None:
    plan = plan_graph(training_chain(5), budget)
    assert sum(plan.problem.cost[0] for _ in plan.schedule) == least_cost(plan.problem, budget)


def test_the_error_names_the_least_budget() -> None:
    graph = training_chain(6)
    with pytest.raises(BudgetInfeasibleError, match="node") as caught:
        plan_graph(graph, 150)
    floor = caught.value.floor_bytes
    assert floor >= 300, "a backward node and its two inputs"
    assert plan_graph(graph, floor).peak_bytes <= floor


def test_what_costs_nothing_may_be_computed_again_for_nothing() -> None:
    graph = training_chain(12)
    nx.set_node_attributes(graph, 0, "cost")
    plan = plan_graph(graph, "50%")
    assert len(plan.schedule) > len(graph) and peak_and_cost(graph, plan.schedule) == (plan.peak_bytes, 0)
    assert plan.peak_bytes <= plan.budget and plan.overhead == plan.lower_bound == plan.gap == 0


def test_nodes_may_come_in_any_order() -> None:
    graph = nx.DiGraph()
    graph.add_node("c", cost=1, bytes=8)
    graph.add_node("a", cost=1, bytes=4)
    graph.add_node("b", cost=2, bytes=4)
    graph.add_edges_from([("a", "b"), ("b", "c")])
    plan = plan_graph(graph, "1KB")
    assert (plan.schedule, plan.peak_bytes, plan.budget, plan.gap) == (["a", "b", "c"], 12, 1000, 0)


def test_parallel_edges_say_the_same() -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("last", cost=1, bytes=1)
    graph.add_node("first", cost=1, bytes=2)
    graph.add_edges_from([("first", "last"), ("first", "last")])
    assert plan_graph(graph, 3).schedule == ["first", "last"]


def test_what_cannot_be_planned_is_refused() -> None:
    circle = nx.DiGraph([("a", "b"), ("b", "a")])
    with pytest.raises(GraphError, match="circle"):
        plan_graph(circle, 100)
    with pytest.raises(GraphError, match="'a' needs a finite 'cost'"):
        plan_graph(nx.DiGraph([("a", "b")]), 100)
    endless = nx.DiGraph()
    endless.add_node("a", cost=1, bytes=float("inf"))
    with pytest.raises(GraphError, match="'a' needs a finite 'bytes'"):
        plan_graph(endless, 100)
    with pytest.raises(DataError):
        plan_graph(training_chain(3), "much")
