"""Modes that are on around a call act as in PyTorch: what they did is in the graph, and they do not act twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import memograd as mg


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out * 2 if func in (torch.sin, torch.Tensor.sin, torch.cos) else out


class Sines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1.0, 2.0, 3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w * x).sin() * x.sin()


X = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)
Around = Callable[[], AbstractContextManager[Any]]
ONE_AFTER_THE_OTHER: dict[str, list[Around]] = {
    "always": [Doubling] * 3,
    "later": [nullcontext, Doubling, nullcontext],
    "at first": [Doubling, nullcontext, nullcontext],
    "another device": [nullcontext, lambda: torch.device("meta"), lambda: torch.device("meta")],
}


def trained(way: str, around: list[Around]) -> torch.Tensor:
    model = Sines()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, lambda y, _: y.pow(2).sum(), optimizer, check="never") if way == "step" else None
    target = torch.zeros(1)
    if way == "wrap":
        mg.wrap(model, check="never")
    for context in around:
        with context():
            if step is not None:
                step(X, target)
            else:
                optimizer.zero_grad()
                model(X).pow(2).sum().backward()
                optimizer.step()
    return model.w.detach()


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("around", ONE_AFTER_THE_OTHER)
def test_modes_around_steps_and_wrapped_models(way: str, around: str) -> None:
    contexts = ONE_AFTER_THE_OTHER[around]
    torch.testing.assert_close(trained(way, contexts), trained("pytorch", contexts))


@pytest.mark.parametrize("around", ["always", "later", "at first"])
def test_modes_around_transforms(around: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x.cos() * x).sum()

    gradient = mg.grad(f)
    for context in ONE_AFTER_THE_OTHER[around]:
        with context():
            mine = gradient(X)
            point = X.clone().requires_grad_()
            expected = torch.autograd.grad(f(point), point)[0]
        torch.testing.assert_close(mine, expected)


def test_hooks_on_saved_tensors_are_refused_around_a_step_but_for_pytorchs_own() -> None:
    model = Sines()
    step = mg.TrainStep(model, lambda y, _: y.pow(2).sum(), torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.autograd.graph.save_on_cpu():
        step(X, torch.zeros(1))
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x * 2, lambda x: x)
    with hooks, pytest.raises(mg.GraphError, match="saved_tensors_hooks"):
        step(X, torch.zeros(1))


def by_version(x: torch.Tensor) -> torch.Tensor:
    y = x * 2.0
    y.add_(1.0)
    return (x * y._version).sum()


def test_versions_are_those_of_pytorch_or_refused() -> None:
    assert torch.equal(mg.grad(by_version)(X), torch.ones_like(X))
    kept = X.clone()
    for f in (lambda x: (x * x._version).sum(), lambda x: (x * kept._version).sum()):
        with pytest.raises(mg.CaptureError, match="_version"):
            mg.grad(f)(X)
