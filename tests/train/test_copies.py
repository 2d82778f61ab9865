"""A step that is copied or pickled in the middle of training goes on as the one it was made of."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
Y = torch.linspace(0.0, 2.0, 8, dtype=F64).reshape(4, 2)


def pickled(step: mg.TrainStep) -> mg.TrainStep:
    return pickle.loads(pickle.dumps(step))


def made(**options: Any) -> mg.TrainStep:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    return mg.TrainStep(model, nn.MSELoss(), optimizer, **options)


def losses(step: mg.TrainStep, scales: list[int]) -> list[float]:
    return [step(X * k, Y).item() for k in scales]


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.1, "accumulate": 2, "ema_decay": 0.9}])
def test_both_go_on_from_there_and_share_nothing(
    copied: Callable[[mg.TrainStep], mg.TrainStep], options: dict[str, Any]
) -> None:
    whole = made(**options)
    expected = losses(whole, [1, 2, 3, 4, 5, 6])
    step = made(**options)
    first = losses(step, [1, 2, 3])
    other = copied(step)
    assert other.model is not step.model and other.optimizer is not step.optimizer
    for one in (other, step):  # the second begins where the first did
        torch.testing.assert_close(first + losses(one, [4, 5, 6]), expected, rtol=1e-12, atol=0)
        for mine, its in zip(one.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
        if one.averages:
            for mine, its in zip(one.ema_state_dict().values(), whole.ema_state_dict().values(), strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
