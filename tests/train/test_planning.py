"""``mg.plan``: says how a model fits a budget, and leaves the model as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *[nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1)) for _ in range(3)]
    )


class WithLoss(nn.Module):
    """Returns its loss, as the models of ``transformers`` do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None, scale: float = 1.0) -> Any:
        assert labels is not None
        return (self.net(x) - labels).square().mean() * scale


SEEDED = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 16, generator=SEEDED), torch.randn(64, 16, generator=SEEDED)


@pytest.mark.parametrize(
    "made",
    [
        lambda **b: mg.plan(net(), X, Y, loss=nn.MSELoss(), **b),
        lambda **b: mg.plan(net(), X, Y, loss=nn.functional.mse_loss, **b),
        lambda **b: mg.plan(net(), X, Y, loss=lambda out, target: (out - target).abs().sum(), **b),
        lambda **b: mg.plan(net(), X, loss=lambda out: out.square().sum(), **b),
        lambda **b: mg.plan(net(), X, loss=torch.sum, **b),
        lambda **b: mg.plan(WithLoss(), X, labels=Y, scale=2.0, **b),
    ],
    ids=["module", "function", "lambda of two", "lambda of one", "torch.sum", "the model's own loss"],
)
def test_the_ways_to_say_what_the_loss_is(made: Any) -> None:
    plan = made(memory_budget="85%")
    assert plan.peak_bytes <= plan.budget < plan.unplanned_bytes
    assert set(plan.phases) == {"forward", "backward", "write"}, "writes: the statistics of the BatchNorms"
    assert plan.kept and "def step(" in plan.code


def test_nothing_is_trained() -> None:
    model = net()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    mg.plan(model, X, Y, loss=nn.MSELoss(), memory_budget="85%")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "statistics included"
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_under_no_grad_too() -> None:
    with torch.no_grad():
        assert "backward" in mg.plan(net(), X, Y, loss=nn.MSELoss(), memory_budget="100%").phases
        assert not torch.is_grad_enabled()


def test_errors() -> None:
    with pytest.raises(mg.BudgetInfeasibleError) as error:
        mg.plan(net(), X, Y, loss=nn.MSELoss(), memory_budget=1)
    assert mg.plan(net(), X, Y, loss=nn.MSELoss(), memory_budget=error.value.floor_bytes).peak_bytes > 1
    with pytest.raises(mg.GraphError, match="one real number"):
        mg.plan(net(), X, memory_budget="50%")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        mg.plan(net(), torch.randn(3, 7), loss=torch.sum, memory_budget="50%")


def test_the_plan_of_gradients_alone_is_not_that_of_a_whole_step() -> None:
    model = net()
    plan = mg.plan(model, X, Y, loss=nn.MSELoss(), memory_budget="85%")
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), memory_budget=plan)
    with pytest.raises(mg.PlanViolationError, match="another graph"):
        step(X, Y)


def test_targets_are_not_differentiated() -> None:
    """PyTorch refuses to differentiate some losses by their target; a plan does not ask for it."""
    plan = mg.plan(net(), X, Y.sign(), loss=nn.SoftMarginLoss(), memory_budget="100%")
    assert 0 < plan.peak_bytes <= plan.budget
