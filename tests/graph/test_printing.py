"""A graph's text calls the operators that the graph calls."""

from __future__ import annotations

import torch
from torch.library import Library

import memograd as mg

LIBRARY = Library("memograd_tests_printing", "DEF")
for _name, _factor in (("scale.by_two", 2.0), ("scale_by.two", 5.0)):
    LIBRARY.define(f"{_name}(Tensor x) -> Tensor")
    LIBRARY.impl(_name, lambda x, factor=_factor: x * factor, "CompositeExplicitAutograd")


def test_operators_whose_names_differ_by_where_the_dot_is_stay_two() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        operators = torch.ops.memograd_tests_printing
        return operators.scale.by_two(x) - operators.scale_by.two(x)

    x = torch.arange(3.0)
    assert torch.equal(mg.capture(f, x)(x), f(x))
