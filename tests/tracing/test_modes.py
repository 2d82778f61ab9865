"""Modes that are on around a call act as in PyTorch: what they did is in the graph, and they do not act twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

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


def written_through_dropout(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    nn.functional.dropout(y, 0.5, False).add_(1)
    return y


def written_through_views(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y.contiguous().add_(1)
    y.reshape(-1).mul_(3)
    y.flatten().sub_(1)
    y.to(torch.float64).add_(x)
    return y


def drawn_twice(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.dropout(x, 0.5) + 2 * nn.functional.dropout(x, 0.5)


COMPOSITE = {
    "written through dropout": written_through_dropout,
    "written through views": written_through_views,
    "drawn twice": drawn_twice,
    "attention": lambda x: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5)[0],
}


class Beside(nn.Module):
    """A layer beside what runs in inference mode, where nobody takes composite operators apart before they are seen."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            seen = self.function(x)
        return (self.linear(x) * seen.clone()).square().mean()


def by_itself(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


STEPS: dict[str, Callable[[nn.Module], Callable[[torch.Tensor], torch.Tensor]]] = {
    "step": lambda m: mg.TrainStep(m, None, torch.optim.SGD(m.parameters(), lr=0.1), check="never"),
    "wrap": lambda m: by_itself(mg.wrap(m, check="never")),
    "within a budget": lambda m: by_itself(mg.wrap(m, memory_budget="100%")),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("function", COMPOSITE)
def test_composite_operators_are_taken_apart_in_inference_mode(function: str, steps: str) -> None:
    runs = []
    for make in (by_itself, STEPS[steps]):
        torch.manual_seed(0)
        step = make(Beside(COMPOSITE[function]).double())
        losses = [step(torch.linspace(-1, 1 + k, 6, dtype=torch.float64).view(2, 3)) for k in range(3)]
        runs.append((torch.stack(losses), torch.get_rng_state()))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_statistics_are_written_in_inference_mode(steps: str) -> None:
    """``batch_norm`` writes to them, and its schema does not say so: within a budget they stayed what they were."""
    runs = []
    for make in (by_itself, STEPS[steps]):
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
        step = make(Beside(teacher).double())
        losses = [step(torch.linspace(-1, 1 + k, 6, dtype=torch.float64).view(2, 3).sin()) for k in range(3)]
        runs.append((torch.stack(losses), teacher.state_dict()))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-12, atol=0)


def multiplications(way: str, check: Any) -> list[int]:
    """What PyTorch's counter sees of each of three steps; ``way``: plain, wrapped or step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(3, 1, 5, 5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, check=check) if way == "step" else None
    net = mg.wrap(model, check=check) if way == "wrapped" else model
    counts = []
    for _ in range(3):
        with FlopCounterMode(display=False) as counter:
            if step is not None:
                step(x, y)
            else:
                nn.functional.mse_loss(net(x), y).backward()
        counts.append(counter.get_total_flops())
    return counts


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("way", ["wrapped", "step"])
def test_what_pytorchs_counter_counts_is_the_step_and_nothing_beside_it(way: str, check: str) -> None:
    assert multiplications(way, check) == multiplications("plain", check)
