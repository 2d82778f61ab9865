"""tanh of exp and a series, in the place of a slow function: what PyTorch's own tanh is, to the last places."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from memograd._torch import fake_like, inductor_function, last_passes
from memograd.graph.tanh_by_exp import series, tanh_by_exp

aten = torch.ops.aten


def replaced(x: torch.Tensor) -> fx.GraphModule:
    module = fx.symbolic_trace(lambda x: (aten.tanh.default(x),))
    for node in module.graph.nodes:
        node.meta["val"] = fake_like(x)
    tanh_by_exp(module.graph)
    module.graph.lint()
    module.recompile()
    return module


def anywhere(dtype: torch.dtype) -> torch.Tensor:
    small = torch.logspace(-37, 1.5, 100_000, dtype=dtype)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e4, -1e4], dtype=dtype)
    return torch.cat([small, -small, torch.linspace(-25, 25, 200_001, dtype=dtype), special])


def assert_to_the_last_places(ours: torch.Tensor, x: torch.Tensor) -> None:
    """Within three units in the last place of PyTorch's in double precision, or its own."""
    theirs = x.double().tanh()
    place = torch.nextafter(theirs.to(x.dtype).abs(), torch.tensor(2.0, dtype=x.dtype)) - theirs.to(x.dtype).abs()
    assert ((ours.double() - theirs).abs()[~x.isnan()] <= 3 * place.double()[~x.isnan()]).all()
    assert torch.equal(ours.isnan(), x.isnan()) and torch.equal(ours.signbit()[~x.isnan()], x.signbit()[~x.isnan()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_the_last_places_for_small_large_and_no_numbers(dtype: torch.dtype) -> None:
    x = anywhere(dtype)
    (y,) = replaced(x)(x)
    assert_to_the_last_places(y, x)


def test_compiled_too() -> None:
    x = anywhere(torch.float32)
    compiled = inductor_function(lambda x: (aten.tanh.default(x),), [fake_like(x)], last_passes(tanh_by_exp))
    with torch.no_grad():
        (y,) = compiled(x)
    assert_to_the_last_places(y, x)


def test_other_precisions_and_devices_keep_theirs() -> None:
    for x in (torch.ones(3, dtype=torch.bfloat16), torch.ones(3, device="meta"), torch.ones(3, dtype=torch.complex64)):
        assert aten.tanh.default in {n.target for n in replaced(x).graph.nodes}


def test_the_series() -> None:
    """Against the numbers of Abramowitz and Stegun, 4.5.64."""
    assert series(5) == pytest.approx([1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835], rel=1e-15)
