"""What a step takes for the loss where a model or a criterion returns more than one number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X, TARGET = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2, dtype=torch.float64)


def error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean()


def size(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def trained(criterion: Any) -> nn.Linear:
    """By a step of ours."""
    model = line()
    mg.TrainStep(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1), check="never")(X, TARGET)
    return model


def expected(loss: Any) -> nn.Linear:
    """By plain PyTorch."""
    model = line()
    loss(model(X), TARGET).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model


SEVERAL = {
    "two terms": lambda o, t: (error(o, t), size(o)),
    "a dict of terms": lambda o, t: {"error": error(o, t), "size": size(o)},
    "a term, then the sum": lambda o, t: [error(o, t), error(o, t) + size(o)],
}


@pytest.mark.parametrize("criterion", SEVERAL.values(), ids=SEVERAL)
def test_several_numbers_that_could_be_the_loss_are_refused(criterion: Any) -> None:
    with pytest.raises(mg.GraphError, match=r"2 numbers that could be the loss.*test_objective\.py:.*return their sum"):
        trained(criterion)


def test_a_model_that_returns_a_dict_of_losses_is_refused() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = line()

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"boxes": error(self.line(x), target), "classes": size(self.line(x))}

    model = Detector()
    with pytest.raises(mg.GraphError, match="2 numbers"):
        mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1))(X, TARGET)


def with_terms(output: torch.Tensor, target: torch.Tensor) -> Any:
    terms = error(output, target), size(output)
    return sum(terms), *terms


BESIDE = {
    "its terms": (with_terms, lambda o, t: error(o, t) + size(o)),
    "detached": (lambda o, t: (error(o, t), size(o).detach()), error),
    "a count": (lambda o, t: (error(o, t), (o > t).sum()), error),
    "the output": (lambda o, t: (error(o, t), o), error),
    "in a dict, by its name": (lambda o, t: {"size": size(o), "loss": error(o, t)}, error),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_loss_may_come_with_what_is_no_loss_beside_it(name: str) -> None:
    criterion, loss = BESIDE[name]
    ours, plain = trained(criterion), expected(loss)
    torch.testing.assert_close(list(ours.parameters()), list(plain.parameters()))
