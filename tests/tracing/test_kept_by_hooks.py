"""Hooks that keep the gradients they hear, in what is there for good and in what each call of the program makes anew.
Witness: the same model in plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg


class Keeping(nn.Module):
    """``keep`` registers a hook on a hidden tensor."""

    def __init__(self, keep: Callable[[Any, torch.Tensor], None]) -> None:
        super().__init__()
        self.front, self.head, self.keep = nn.Linear(3, 4), nn.Linear(4, 1), keep
        self.kept: Any = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.front(x).tanh()
        self.keep(self, h)
        return self.head(h)


def for_good(model: Any, h: torch.Tensor) -> None:
    h.register_hook(model.kept.append)


def asked_for_by_the_hook(model: Any, h: torch.Tensor) -> None:
    model.kept = []

    def hook(gradient: torch.Tensor) -> None:
        model.kept.append(gradient)

    h.register_hook(hook)


def made_anew(model: Any, h: torch.Tensor) -> None:
    model.kept = []
    h.register_hook(model.kept.append)


def made_anew_and_enclosed(model: Any, h: torch.Tensor) -> None:
    kept: list[torch.Tensor] = []

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        kept.append(gradient)
        return gradient * 2

    h.register_hook(hook)
    model.kept = kept


@pytest.mark.parametrize("keep", [for_good, asked_for_by_the_hook], ids=lambda f: f.__name__)
def test_heard_as_in_pytorch(keep: Callable[[Any, torch.Tensor], None]) -> None:
    theirs = Keeping(keep).double()
    ours = mg.wrap(copy.deepcopy(theirs))
    for _ in range(3):
        x = torch.randn(5, 3, dtype=torch.float64)
        for model in (ours, theirs):
            model(x).square().sum().backward()
        torch.testing.assert_close(ours.kept, theirs.kept)
        assert theirs.kept


@pytest.mark.parametrize("keep", [made_anew, made_anew_and_enclosed], ids=lambda f: f.__name__)
def test_what_each_call_makes_anew_is_refused(keep: Callable[[Any, torch.Tensor], None]) -> None:
    """The list of the call that was captured went on growing, and all others stayed empty."""
    with pytest.raises(mg.CaptureError, match="keeps what it hears in a list that each call of the program makes anew"):
        mg.wrap(Keeping(keep))(torch.randn(5, 3))
    model = Keeping(keep)
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(mg.CaptureError, match="makes anew"):
        step(torch.randn(5, 3), torch.randn(5, 1))
