"""``mg.largest_batch``. Witness: planning the answer, and one sample more."""

import pytest
import torch
from torch import nn

import memograd as mg


def net():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(*blocks, nn.Linear(8, 2))


def make_batch(n):
    return torch.zeros(n, 8), torch.zeros(n, 2)


def fits(model, n, budget):
    try:
        return mg.plan(model, *make_batch(n), loss=nn.MSELoss(), memory_budget=budget)
    except mg.BudgetInfeasibleError:
        return None


def test_it_fits_and_the_next_one_does_not():
    model, budget = net(), "6KiB"
    size, plan = mg.largest_batch(model, make_batch, budget, loss=nn.MSELoss())
    assert plan.peak_bytes <= plan.budget
    assert fits(model, size, budget) and not fits(model, size + 1, budget)


def test_batches_of_keyword_arguments():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x, y):
            return (self.net(x) - y).square().mean()

    size, _ = mg.largest_batch(Loss(), lambda n: dict(zip("xy", make_batch(n), strict=True)), "6KiB")
    assert size > 1


def test_what_it_refuses():
    with pytest.raises(mg.BudgetInfeasibleError) as caught:
        mg.largest_batch(net(), make_batch, 1000, loss=nn.MSELoss())
    assert caught.value.floor_bytes > 1000
    with pytest.raises(mg.DataError, match="share"):
        mg.largest_batch(net(), make_batch, "50%", loss=nn.MSELoss())
    with pytest.raises(mg.DataError, match="Tensor"):
        mg.largest_batch(net(), lambda n: torch.zeros(n, 8), "1MiB")
