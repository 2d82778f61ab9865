"""Operators on the path that the table states by simpler ones are replaced by those; others keep their kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

import memograd as mg
from memograd.adjoint.expand import expand

aten = torch.ops.aten


def expanded(f: Any, *args: torch.Tensor, by: str = "x") -> tuple[Any, Any]:
    graph = mg.capture(f, *args)
    return graph, expand(graph, [by], [graph.results[0]])


def targets(graph: Any) -> set[Any]:
    return {n.target for n in graph.nodes}


def test_a_backward_kernel_on_the_path_becomes_its_formula() -> None:
    x, g = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    graph, new = expanded(lambda x, g: aten.mse_loss_backward(g, x, 2 * x.detach(), 2).sum(), x, g)
    assert aten.mse_loss_backward.default in targets(graph) - targets(new)
    torch.testing.assert_close(new(x, g), (-2 * g * x).sum())


def test_off_the_path_it_keeps_its_kernel() -> None:
    x, g = torch.randn(2, 3), torch.randn(2, 3)
    graph, new = expanded(
        lambda x, g, z: (aten.mse_loss_backward(g, x, 2 * x.detach(), 2) * z).sum(), x, g, torch.randn(2, 3), by="z"
    )
    assert new is graph


def test_of_several_results_each_reader_gets_its_own() -> None:
    x, w = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            y = F.layer_norm(x, [3], w, None)
            to_x, to_w = torch.autograd.grad((y**2).sum(), (x, w), create_graph=True)
        return (to_x**3).sum() + 10 * (to_w**2).sum()

    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    graph, new = expanded(f, *leaves)
    backward = aten.native_layer_norm_backward.default
    assert backward in targets(graph) - targets(new)
    torch.testing.assert_close(new(*leaves), f(*leaves).detach())


def test_what_it_is_replaced_by_says_where_it_comes_from() -> None:
    x = torch.randn(2, 3)
    graph, new = expanded(lambda x: aten.mse_loss_backward(x, x, x, 2).sum(), x)
    (kernel,) = [n for n in graph.nodes if n.target is aten.mse_loss_backward.default]
    inlined = [n for n in new.nodes if n.target is not aten.sum.default]
    assert inlined and all(n.meta["source"] == kernel.meta["source"] for n in inlined)
