"""What was computed outside of a step from parameters that its optimizer trains is refused by name: PyTorch's backward
pass goes on through it, a step's does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.ones(2, 3)


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.detaches = nn.Linear(3, 3), False
        self.held = [self.linear.weight.t()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.held[0].detach() if self.detaches else self.held[0]
        return (x @ held + self.linear.bias).square().mean()


def of_linear() -> tuple[nn.Module, mg.TrainStep]:
    encoder, model = nn.Linear(3, 3), nn.Linear(3, 1)
    optimizer = torch.optim.SGD([*encoder.parameters(), *model.parameters()], 0.1)
    return encoder, mg.TrainStep(model, nn.MSELoss(), optimizer, check="never")


def test_an_argument_computed_by_what_the_optimizer_trains() -> None:
    encoder, step = of_linear()
    with pytest.raises(mg.GraphError, match=r"argument 0 .* of shape \[3, 3\] that the optimizer trains.*detach it"):
        step(encoder(X), X[:, :1])
    step(encoder(X).detach(), X[:, :1])
    step(nn.Linear(3, 3)(X), X[:, :1])  # of nothing that it trains
    with pytest.raises(mg.GraphError, match="argument 0"):
        step(encoder(X), X[:, :1])


def test_a_tensor_with_a_history_that_the_model_holds() -> None:
    model = Holding()
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), 0.1), check="never")
    with pytest.raises(mg.GraphError, match="outside of the step from a parameter"):
        step(X)
    model.detaches, witness = True, Holding()
    witness.load_state_dict(model.state_dict())
    witness.held, model.held = [model.held[0].detach().clone()], [model.held[0].clone()]
    step(X)
    (slope,) = torch.autograd.grad(witness(X), witness.linear.bias)
    torch.testing.assert_close(model.linear.bias, witness.linear.bias - 0.1 * slope)
