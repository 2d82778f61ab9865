"""The recursion by itself, on numbers: what it computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import memograd as mg
from memograd.adjoint.activity import active_nodes
from memograd.adjoint.recursion import Recursion
from memograd.graph.interpreter import evaluate


class Numbers:
    def __init__(self, values: dict[Any, Any]) -> None:
        self.input = values.__getitem__
        self.item = lambda node, index: values[node][index]
        self.about = lambda node: nullcontext()


def recursion_at(f: Callable[..., Any], x: torch.Tensor, **options: Any) -> tuple[Recursion, Any]:
    graph = mg.capture(f, x)
    active = active_nodes(graph.placeholders, graph.results)
    values = evaluate(graph, [x])
    seeds = {graph.results[0]: torch.ones((), dtype=x.dtype)}
    return Recursion(Numbers(values), seeds, set(active), **options), graph


def diamond(x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    return (y.sin() * y).sum()


def parts(x: torch.Tensor) -> torch.Tensor:
    first, _, third = x.split(2)
    return (first * third).sum() + first.exp().sum()


def of_eigenvalues(x: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(x.reshape(3, 2) @ x.reshape(3, 2).T)
    return (values**2).sum() + vectors.abs().sum()


@pytest.mark.parametrize("memoize", [True, False])
@pytest.mark.parametrize("f", [diamond, parts, of_eigenvalues])
def test_on_numbers_it_computes_the_gradient(f: Any, memoize: bool) -> None:
    x = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    recursion, graph = recursion_at(f, x, memoize=memoize)
    ours = recursion.adjoint(graph.placeholders[0])
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_adjoint_of_a_node_with_several_results_is_the_list_of_theirs() -> None:
    x = torch.arange(6.0, dtype=torch.float64)
    recursion, graph = recursion_at(parts, x)
    (split,) = [n for n in graph.nodes if n.target is torch.ops.aten.split.Tensor]
    first, second, third = recursion.adjoint(split)
    torch.testing.assert_close(first, x[4:] + x[:2].exp())
    torch.testing.assert_close(third, x[:2])
    assert second is None, "nothing reads it"
