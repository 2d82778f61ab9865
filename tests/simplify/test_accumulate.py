"""Gradients of a weight used many times are added up as they come."""

from __future__ import annotations

import torch

import memograd as mg
from memograd.graph.graph import Graph
from memograd.simplify.accumulate import accumulate


def recurrent(steps: int = 8) -> tuple[Graph, tuple[torch.Tensor, ...]]:
    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        h = x
        for _ in range(steps):
            h = torch.tanh(h @ w.t())
        return h.sum()

    w, x = torch.randn(5, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    return mg.differentiate(mg.capture(loss, w, x), ["w"]), (w, x)


def waiting(graph: Graph) -> int:
    """The most gradients of the weight's shape that are alive at once."""
    nodes = graph.nodes
    place = {n: i for i, n in enumerate(nodes)}
    spans = [
        (place[n], max([place.get(u, len(nodes)) for u in n.users]))
        for n in nodes
        if tuple(n.meta["val"].shape) == (5, 5) and "adjoint_of" in n.meta and str(n.target) == "aten.mm.default"
    ]
    return max(sum(a <= i < b for a, b in spans) for i in range(len(nodes)))


def test_one_gradient_waits_not_one_from_each_step() -> None:
    graph, _ = recurrent()
    assert waiting(graph) <= 2


def test_the_gradient_is_autograds() -> None:
    graph, (w, x) = recurrent()
    leaf = w.clone().requires_grad_()
    h = x
    for _ in range(8):
        h = torch.tanh(h @ leaf.t())
    (expected,) = torch.autograd.grad(h.sum(), leaf)
    torch.testing.assert_close(graph(w, x)[1]["w"], expected, rtol=1e-12, atol=1e-12)


def test_it_is_done_once() -> None:
    graph, _ = recurrent()
    assert [n.name for n in accumulate(graph).nodes] == [n.name for n in graph.nodes]
