"""Sums of products are taken apart where a pointwise kernel makes them on its way, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from memograd._torch import last_passes
from memograd.graph.tanh_by_exp import tanh_by_exp
from memograd.pipeline import capture
from memograd.run import inductor
from memograd.run.sums_apart import sums_apart
from memograd.run.whole_rows import whole_rows

aten = torch.ops.aten
X, A, B = torch.randn(4), torch.randn(3, 5), torch.randn(5, 4)


def read_by_a_pointwise_operator(x, a, b):
    return aten.tanh.default(aten.addmm.default(x, a, b))


def read_by_two(x, a, b):
    y = aten.addmm.default(x, a, b)
    return aten.mul.Tensor(y, aten.sin.default(y))


def read_by_a_product(x, a, b):
    y = aten.addmm.default(x, a, b)
    return aten.add.Tensor(aten.sin.default(y), aten.sum.default(y))


def returned(x, a, b):
    return aten.addmm.default(x, a, b)


def scaled(x, a, b):
    return aten.sin.default(aten.addmm.default(x, a, b, beta=2, alpha=3))


@pytest.mark.parametrize(
    ("f", "apart"),
    [(read_by_a_pointwise_operator, True), (read_by_two, True)]
    + [(f, False) for f in (read_by_a_product, returned, scaled)],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_apart_where_it_is_read_by_pointwise_operators_alone(f: Callable[..., torch.Tensor], apart: bool) -> None:
    module = fx.symbolic_trace(f)
    sums_apart(module.graph)
    module.graph.lint()
    module.recompile()
    assert (aten.mm.default in {n.target for n in module.graph.nodes}) == apart
    torch.testing.assert_close(module(X, A, B), f(X, A, B))


def test_the_compiler_is_given_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compile(module: Any, operands: Any, options: Any) -> Any:
        seen.append(options)
        return module

    monkeypatch.setattr(inductor, "inductor_graph", compile)
    graph = capture(lambda x, a, b: torch.tanh(torch.addmm(x, a, b)), X, A, B)
    torch.testing.assert_close(inductor.compiled(graph)(X, A, B)[0], torch.tanh(X + A @ B))
    assert last_passes(sums_apart, tanh_by_exp, whole_rows).items() <= seen[0].items()
