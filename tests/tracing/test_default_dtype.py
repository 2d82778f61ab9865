"""Programs that set another default dtype while they run. Witness: the same model, not wrapped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.7, -0.4]], dtype=torch.float64)
MADE: dict[str, Callable[[], torch.Tensor]] = {
    "linspace": lambda: torch.linspace(0, 1, 3) / 3,
    "rand": lambda: torch.rand(3) / 3,
    "full": lambda: torch.full((3,), 1 / 3),
    "arange": lambda: torch.arange(0, 0.9, 0.3) + torch.arange(3) * 2,
    "window": lambda: torch.hann_window(3) + torch.eye(3)[0] / 3,
    "normal": lambda: torch.normal(0.0, 1.0, (3,)) / 3,
    "tensor": lambda: torch.tensor([1 / 3, 2.0, 3.0]),
}


class Model(nn.Module):
    def __init__(self, made: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.made = nn.Linear(3, 3), made

    def forward(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            factor = self.made()
        finally:
            torch.set_default_dtype(before)
        return (self.linear(x) * factor).square().sum() + factor.element_size()


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_what_is_made_under_another_default_dtype(made: Callable[[], torch.Tensor]) -> None:
    theirs = Model(made)
    ours: Any = mg.wrap(copy.deepcopy(theirs), check="never")
    for dtype in (torch.float32, torch.float64, torch.float32):
        found = []
        for model in (ours, theirs):
            torch.manual_seed(0)
            model.zero_grad()
            loss = model(X, dtype)
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_whole_numbers_that_become_floating_point_there_are_refused() -> None:
    model: Any = mg.wrap(Model(lambda: torch.arange(3) / 3))
    model(X, torch.float64).backward()
    with pytest.raises(mg.CaptureError, match="another default dtype"):
        model(X, torch.float32)
