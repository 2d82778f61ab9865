"""Programs that draw from a ``torch.Generator`` of their own draw as the plain program does, call by call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
Loss = Callable[[torch.Tensor], torch.Tensor]
NUMBERS: Any = range(9)
DRAWS: dict[str, Callable[[torch.Generator], Callable[[torch.Tensor], Any]]] = {
    "rand": lambda g: lambda x: x**2 * torch.rand(3, generator=g, dtype=F64),
    "randn, written to": lambda g: lambda x: x**2 * torch.randn(3, generator=g, dtype=F64).mul_(2),
    "uniform_": lambda g: lambda x: x**2 * torch.empty(3, dtype=F64).uniform_(generator=g),
    "bernoulli": lambda g: lambda x: x**2 * torch.bernoulli(x.detach().sigmoid(), generator=g),
    "bernoulli_": lambda g: lambda x: x**2 * torch.empty_like(x).bernoulli_(0.5, generator=g),
    "multinomial": lambda g: lambda x: (x**2)[torch.multinomial(x.detach().softmax(0)[:, 0], 2, generator=g)],
    "normal": lambda g: lambda x: x**2 * torch.normal(x.detach(), 1.0, generator=g),
    "randperm": lambda g: lambda x: (x**2)[torch.randperm(4, generator=g)][:2],
    "randperm, out": lambda g: lambda x: (x**2)[torch.randperm(4, generator=g, out=torch.empty(4).long())][:2],
    "poisson": lambda g: lambda x: x**2 * torch.poisson(x.detach().exp(), g),
    "what had a history": lambda g: lambda x: (x * 2).clone().normal_(generator=g) * x,
    "a sampler": lambda g: lambda x: x**2 * next(iter(torch.utils.data.RandomSampler(NUMBERS, generator=g))),
}


class Drawing(nn.Module):
    def __init__(self, generator: torch.Generator, draw: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(X.clone())
        self.loss = draw(generator)

    def forward(self) -> torch.Tensor:
        return self.loss(self.weight).sum()


def trained(how: str, draw: Any) -> list[torch.Tensor]:
    """Weights after three steps, and what the generator draws then."""
    generator = torch.Generator().manual_seed(5)
    model = Drawing(generator, draw)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = mg.TrainStep(model, None, optimizer, backend="eager")
    call = mg.wrap(model) if how == "wrap" else model
    for _ in range(3):
        if how == "step":
            step()
        else:
            optimizer.zero_grad()
            call().backward()
            optimizer.step()
    return [model.weight.detach(), torch.rand(2, generator=generator)]


def gradients(how: str, draw: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    loss = draw(generator)
    gradient = mg.grad(lambda x: loss(x).sum())
    found = []
    for _ in range(3):
        x = X.clone().requires_grad_()
        found.append(gradient(X) if how == "grad" else torch.autograd.grad(loss(x).sum(), x)[0])
    return [*found, torch.rand(2, generator=generator)]


@pytest.mark.parametrize("draw", DRAWS)
def test_transforms(draw: str) -> None:
    torch.testing.assert_close(gradients("grad", DRAWS[draw]), gradients("plain", DRAWS[draw]))


@pytest.mark.parametrize("draw", ["rand", "bernoulli", "a sampler"])
def test_steps_and_wrapped_models(draw: str) -> None:
    expected = trained("plain", DRAWS[draw])
    torch.testing.assert_close(trained("step", DRAWS[draw]), expected)
    torch.testing.assert_close(trained("wrap", DRAWS[draw]), expected)


def test_the_default_generator_may_be_named() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * torch.rand(3, generator=torch.default_generator, dtype=F64)).sum()

    gradient = mg.grad(f)
    torch.manual_seed(3)
    ours = [gradient(X)[0] for _ in range(2)]
    torch.manual_seed(3)
    torch.testing.assert_close(ours, [torch.rand(3, dtype=F64) for _ in range(2)])
    assert not mg.capture(f, X).guards.volatile


def test_an_operator_that_does_more_than_draw_is_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(mg.CaptureError, match="does something else besides"):
        mg.grad(lambda x: torch.ops.aten.rrelu_with_noise(x, torch.empty_like(x), 0.1, 0.3, True, generator).sum())(X)
