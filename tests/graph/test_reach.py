"""What lies before and behind a value. Witness: ways counted in the matrix of the graph's edges."""

import torch

import memograd as mg
from memograd.graph.reach import ancestors, behind_cotangents, descendants


def program(x, y):
    a, b = x.sin(), y.cos()
    c = a * b
    return c.sum(), (b + 1).sum()


def reachable(nodes):
    """Which node a way leads to from which, by powers of the matrix of edges."""
    edges = torch.tensor([[float(n in m.all_input_nodes) for m in nodes] for n in nodes])
    ways = torch.eye(len(nodes))
    for _ in nodes:
        ways = ((ways + ways @ edges) > 0).float()
    return ways.bool()


def test_ways_lead_from_what_is_before_to_what_is_behind():
    graph = mg.differentiate(mg.capture(program, torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)))
    nodes = [*graph.placeholders, *graph.nodes]
    ways = reachable(nodes)
    for k, node in enumerate(nodes):
        assert ancestors([node]) == {n for j, n in enumerate(nodes) if ways[j, k]}
        assert descendants(graph, [node]) == {n for j, n in enumerate(nodes) if ways[k, j]}


def test_nothing_lies_before_nothing():
    graph = mg.capture(program, torch.ones(3), torch.ones(3))
    assert not ancestors([]) and not descendants(graph, [])


def test_what_waits_for_cotangents():
    forward = mg.capture(program, torch.ones(3, requires_grad=True), torch.ones(3))
    assert not behind_cotangents(forward)
    joint = mg.differentiate(forward, cotangents="output")
    late = behind_cotangents(joint)
    kinds = {n: i.kind for n, i in zip(joint.placeholders, joint.inputs, strict=True)}
    assert {n for n in late if n in kinds} == {n for n, kind in kinds.items() if kind == "cotangent"} != set()
    outputs = [joint.results[k] for k in joint.positions("output")]
    assert late.isdisjoint(outputs) and late.issuperset(joint.results[k] for k in joint.positions("gradient"))
