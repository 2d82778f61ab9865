"""Parameters that a program freezes or unfreezes on its way, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd.errors import CaptureError

X = torch.randn(5, 3, dtype=torch.float64)


class Judged(nn.Module):
    """Of two uses of ``judge`` autograd sees the first only, as when a GAN trains both of its sides in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.judge = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.judge(x).square().mean()
        self.judge.requires_grad_(False)
        made = self.judge(self.make(x).sin()).square().mean()
        self.judge.requires_grad_(True)
        return seen + made


class Frozen(Judged):
    """Frozen by the time of the backward pass: no use counts, and none of the next pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.judge(self.make(x)).square().mean()
        self.judge.weight.requires_grad = False
        return seen + self.judge(self.make(x).sin()).square().mean()


class Unfrozen(Judged):
    def __init__(self) -> None:
        super().__init__()
        self.judge.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.judge.requires_grad_(True)
        return self.judge(self.make(x)).square().mean()


def trained(kind: type[nn.Module], way: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = kind().double()
    optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    if way == "step":
        step = mg.TrainStep(model, None, optimizer, backend="eager")
        for _ in range(3):
            step(X)
    else:
        if way == "wrap":
            mg.wrap(model, backend="eager")
        for _ in range(3):
            optimizer.zero_grad()
            model(X).backward()
            optimizer.step()
    flags = {f"{name} is trained": torch.tensor(p.requires_grad) for name, p in model.named_parameters()}
    return {**flags, **{name: p.detach() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("kind", [Judged, Frozen])
def test_a_parameter_frozen_on_the_way_gets_what_autograd_gives(kind: type[nn.Module], way: str) -> None:
    torch.testing.assert_close(trained(kind, way), trained(kind, "plain"), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("way", ["step", "wrap"])
def test_a_parameter_unfrozen_on_the_way_is_refused_by_name(way: str) -> None:
    with pytest.raises(CaptureError, match=r"unfreezes its parameter '.*judge\.weight'"):
        trained(Unfrozen, way)


@pytest.mark.parametrize("kind", ["grad", "vjp"])
def test_a_tensor_around_torch_funcs_transforms(kind: str) -> None:
    w = torch.randn(4, 3, dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        if kind == "grad":
            return torch.func.grad(lambda v: (w @ v).sin().sum())(x[0]).square().sum()
        return torch.func.vjp(lambda v: (w @ v).sin(), x[0])[1](w[:, 0])[0].square().sum()

    x = X.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(f)(X), torch.autograd.grad(f(x), x)[0])


def scaled(w: torch.Tensor):
    return lambda x: (x * w).tanh()


def test_parameters_that_are_called_alike_in_three_functions_have_a_gradient_each() -> None:
    parameters = [nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(4)]
    first, second, third, fourth = map(scaled, parameters)

    def f(x: torch.Tensor) -> torch.Tensor:
        return first(second(third(fourth(x)))).sum()

    graph = mg.capture(f, X)
    tensors = {i.name: i.tensor for i in graph.inputs}
    _, gradients = mg.differentiate(graph)(X)
    theirs = torch.autograd.grad(f(X), parameters)
    for parameter, expected in zip(parameters, theirs, strict=True):
        (name,) = (n for n, t in tensors.items() if t is parameter)
        torch.testing.assert_close(gradients[name], expected)


def adds_to(total: torch.Tensor):
    def add(x: torch.Tensor) -> torch.Tensor:
        total.add_(x)
        return (x * total).sum()

    return add


def test_a_write_goes_to_the_one_of_three_tensors_called_alike_that_the_program_writes_to() -> None:
    def totals() -> list[torch.Tensor]:
        return [torch.full((3,), float(k), dtype=torch.float64) for k in range(3)]

    ours, theirs = totals(), totals()

    def program(held: list[torch.Tensor]):
        first, second, third = map(adds_to, held)
        return lambda x: first(x) + second(2 * x) + third(3 * x)

    value, expected = mg.capture(program(ours), X[0])(X[0]), program(theirs)(X[0])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours, theirs)
