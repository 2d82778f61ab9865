"""Sums of products are taken apart where a pointwise kernel makes them on its way, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from memograd.pipeline import capture
from memograd.run.inductor import compiled
from memograd.run.sums_apart import sums_apart

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
    """An addmm and what becomes one: the kernels that are compiled compute what operators do."""
    import torch._inductor.config as config

    monkeypatch.setattr(config, "force_disable_caches", True)  # nor does it come from an earlier run
    seen: list[set[object]] = []

    def watched(graph: fx.Graph) -> None:
        sums_apart(graph)
        seen.append({n.target for n in graph.nodes})

    monkeypatch.setattr("memograd.run.inductor.sums_apart", watched)

    def f(x, a, b):
        return torch.tanh(torch.addmm(x, a, b)) + torch.sin(x + a @ b)

    graph = capture(f, X, A, B)
    torch.testing.assert_close(compiled(graph)(X, A, B)[0], f(X, A, B), rtol=1e-5, atol=1e-6)
    assert len(seen) == 1 and aten.mm.default in seen[0] and aten.addmm.default not in seen[0]
