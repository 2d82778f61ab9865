"""Several rows as one where a bias is added to each: the numbers are what they were, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from memograd._torch import inductor_graph, last_passes
from memograd.run.sums_apart import sums_apart
from memograd.run.whole_rows import whole_rows

aten = torch.ops.aten


def widened(f: Callable[..., Any], *args: torch.Tensor) -> tuple[fx.GraphModule, list[Any]]:
    """``f`` with the pass, and the shapes of the rows that it laid out."""
    module = fx.symbolic_trace(f)
    FakeTensorProp(module).propagate(*args)
    whole_rows(module.graph)
    module.graph.lint()
    module.recompile()
    return module, [n.meta["val"].shape for n in module.graph.nodes if n.target is aten.cat.default]


def operands(rows: int = 1024, columns: int = 20, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(*shape, dtype=dtype) for shape in [(rows, 3), (3, columns), (columns,)]]


def listed(results: Any) -> list[torch.Tensor]:
    return [results] if isinstance(results, torch.Tensor) else [*results]


def layer(x, w, b):
    return aten.sigmoid.default(aten.add.Tensor(b, aten.mm.default(x, w)))


def returned_and_multiplied(x, w, b):
    """By what is read in between, too, and turned around."""
    total = aten.add.Tensor(b, aten.mm.default(x, w))
    y = aten.mul.Tensor(total, aten.exp.default(aten.neg.default(total)))
    product = aten.mm.default(aten.permute.default(y, [1, 0]), x)
    return total, y, product, aten.mm.default(y, aten.permute.default(w, [1, 0]))


def with_a_number_and_a_tensor_of_one(x, w, b):
    y = aten.exp.default(aten.add.Tensor(b, aten.mm.default(x, w)))
    return aten.where.self(aten.gt.Scalar(y, 1), y, aten.mul.Tensor(y, aten.sum.default(w)))


@pytest.mark.parametrize("f", [layer, returned_and_multiplied, with_a_number_and_a_tensor_of_one])
@pytest.mark.parametrize(
    ("columns", "dtype", "together"),
    [(20, torch.float32, 4), (24, torch.float32, 2), (10, torch.float32, 8), (20, torch.float64, 2)],
)
def test_rows_that_are_no_whole_vectors(f: Any, columns: int, dtype: torch.dtype, together: int) -> None:
    args = operands(1024, columns, dtype)
    module, laid = widened(f, *args)
    assert laid == [(together * columns,)]
    for ours, theirs in zip(listed(module(*args)), listed(f(*args)), strict=True):
        assert torch.equal(ours, theirs)


def plain(x, w, b):
    return aten.relu.default(aten.add.Tensor(b, aten.mm.default(x, w)))


def summed(x, w, b):
    return aten.sum.dim_IntList(layer(x, w, b), [0])


def with_another(x, w, b):
    return aten.mul.Tensor(layer(x, w, b), aten.sum.dim_IntList(x, [1], True))


def not_of_a_product(x, w, b):
    return aten.sigmoid.default(aten.add.Tensor(b, aten.expand.default(aten.sum.dim_IntList(x, [1], True), [-1, 20])))


@pytest.mark.parametrize(
    ("f", "args"),
    [(f, operands()) for f in (plain, summed, with_another, not_of_a_product)]
    + [(layer, operands(*shape)) for shape in [(1024, 16), (1024, 100), (1023, 20), (64, 20), (1024, 9)]]
    + [
        (layer, [*operands()[:2], torch.randn(1024, 20)]),
        (layer, [*operands(dtype=torch.float64)[:2], torch.randn(20)]),
    ],
)
def test_what_stays_as_it_is(f: Any, args: list[torch.Tensor]) -> None:
    module, laid = widened(f, *args)
    assert not laid and torch.equal(module(*args), f(*args))


@pytest.mark.slow
def test_compiled() -> None:
    def f(x, w, b):
        y = aten.sigmoid.default(aten.addmm.default(b, x, w))
        return y, aten.mm.default(y, aten.permute.default(w, [1, 0]))

    args = operands()
    with torch.no_grad():
        results = inductor_graph(fx.symbolic_trace(f), args, last_passes(sums_apart, whole_rows))(*args)
    for ours, theirs in zip(results, f(*args), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.stride() == theirs.stride()
