"""Programs that go on from what a kernel refuses by values. Witness: the same model, not wrapped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.arange(12.0).view(4, 3) / 12


class Cholesky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e6:  # a look: captured on values
            x = x / 2
        try:
            root = torch.linalg.cholesky(w + 0 * self.linear.weight)
        except RuntimeError:  # torch.linalg.LinAlgError
            root = torch.linalg.cholesky(w @ w.T + torch.eye(3))
        return (self.linear(x) @ root).square().mean()


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.rows = nn.Linear(3, 3), nn.Embedding(4, 3)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e6:
            x = x / 2
        at = (w[0, 0].long() + 2).expand(4)
        try:
            row = self.rows(at)
        except IndexError:
            row = self.rows(at.clamp(max=3)) * 2
        return (self.linear(x) + row).square().mean()


SIGNS = (-1.0, 1.0, -1.0, 2.0)


@pytest.mark.parametrize("kind", [Cholesky, Rows])
@pytest.mark.parametrize("signs", [SIGNS, SIGNS[::-1]], ids=["refused first", "taken first"])
@pytest.mark.parametrize("way", ["wrap", "step"])
def test_each_call_goes_its_own_way(kind: Any, signs: tuple[float, ...], way: str) -> None:
    theirs = kind()
    ours = copy.deepcopy(theirs)
    of_theirs, of_ours = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (theirs, ours))
    step = mg.TrainStep(ours, None, of_ours) if way == "step" else mg.wrap(ours)
    for sign in signs:
        w = sign * torch.eye(3)
        losses = []
        for model, optimizer in ((step, of_ours), (theirs, of_theirs)):
            loss = model(X, w)
            losses.append(loss.detach())
            if model is theirs or way == "wrap":
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        torch.testing.assert_close(*losses)
    torch.testing.assert_close([*ours.parameters()], [*theirs.parameters()])


def test_what_a_program_does_not_catch_is_raised() -> None:
    model: Any = mg.wrap(Rows())
    model(X, torch.eye(3)).backward()
    model.rows = nn.Embedding(2, 3)
    with pytest.raises(IndexError):
        model(X, torch.eye(3))
