"""Writes through expanded and unfolded views are what they are in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from idioms.agreement import check_function, check_step
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.4, -0.6]], dtype=F64)


def one_of_equal_rows(x: torch.Tensor) -> torch.Tensor:
    y = x[:1] * 1
    rows = y.expand(4, 3)
    rows[0].mul_(x[1])
    return (rows * y).sum()


def expanded_to_its_own_shape(x: torch.Tensor) -> torch.Tensor:
    y = x * 1
    y.expand(1, 2, 3).mul_(x.cos())
    return (y**3).sum()


def one_of_equal_numbers(x: torch.Tensor) -> torch.Tensor:
    y = x.sum()
    numbers = y.expand(4)
    numbers[1].mul_(3)
    return y**3 + numbers.sum()


def broadcast(x: torch.Tensor) -> torch.Tensor:
    y = x[0] * 1
    a, _ = torch.broadcast_tensors(y, x)
    a[1].add_(x[1] ** 2)
    return (y**2).sum()


def apart(x: torch.Tensor) -> torch.Tensor:
    y = x.flatten() * 1
    y.unfold(0, 2, 2).mul_(x.sin().reshape(3, 2))
    return (y**3).sum()


def one_window(x: torch.Tensor) -> torch.Tensor:
    y = x.flatten() * 1
    windows = y.unfold(0, 3, 1)
    windows[1].mul_(x[0])
    return (y**3).sum() + (windows**2).sum()


def part_of_a_part(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(3, dtype=F64)
    y.expand(2, 3)[1:][0, 1:] = x[0, 1:].exp()
    return (y * x).sum()


@pytest.mark.parametrize(
    "f",
    [one_of_equal_rows, expanded_to_its_own_shape, one_of_equal_numbers, broadcast, apart, one_window, part_of_a_part],
)
def test_functions(f) -> None:
    check_function(f, [X])


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(X.clone())
        self.register_buffer("total", torch.zeros(3, dtype=F64))

    def forward(self) -> torch.Tensor:
        total: Any = self.total
        with torch.no_grad():
            total.expand(2, 3)[0].add_(self.weight[1])
        return (self.weight * total).sin().sum()


def test_a_buffer_written_to_through_one() -> None:
    check_step(Written())


def test_where_the_order_decides_a_write_is_refused() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.flatten() * 1
        y.unfold(0, 3, 1).mul_(2)
        return y.sum()

    with pytest.raises(mg.CaptureError, match="clone the view"):
        mg.grad(f)(X)
