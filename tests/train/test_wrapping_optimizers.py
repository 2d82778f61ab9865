"""Optimizers around other optimizers, which have no hooks and no state of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
Y = torch.linspace(0.0, 2.0, 8, dtype=F64).reshape(4, 2)


class Lookahead(torch.optim.Optimizer):
    """Zhang et al. 2019, as optimizers around others are written: ``Optimizer.__init__`` is never called."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.count = inner, 0
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults
        self.slow = [p.detach().clone() for g in self.param_groups for p in g["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        self.inner.step()
        self.count += 1
        if self.count % 2 == 0:
            for p, slow in zip((p for g in self.param_groups for p in g["params"]), self.slow, strict=True):
                p.copy_(slow.lerp_(p, 0.5))


def test_an_optimizer_around_another_one() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    theirs.load_state_dict(ours.state_dict())
    step = mg.TrainStep(ours, nn.MSELoss(), Lookahead(torch.optim.Adam(ours.parameters(), lr=0.1)))
    plain = Lookahead(torch.optim.Adam(theirs.parameters(), lr=0.1))
    for _ in range(5):
        step(X, Y)
        plain.zero_grad()
        nn.functional.mse_loss(theirs(X), Y).backward()
        plain.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=0)
