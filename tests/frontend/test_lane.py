"""The short way into a call, and that each change leads off it. Witness: the same model, not wrapped."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.frontend import lane

X = torch.arange(12.0).view(4, 3) / 12


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(3, 5), nn.Linear(5, 2), 0.5
        self.parts = [self.second]

    def forward(self, x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        h = self.first(x).tanh() * self.scale
        for part in self.parts:
            h = part(h)
        h = h + torch.zeros(2)
        return nn.functional.dropout(h, 1.0, self.training) + shift if hasattr(self, "dropped") else h + shift


def registered(module: Any) -> Any:
    return module.register_forward_hook(lambda m, args, out: out * 2)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another attribute": lambda m: setattr(m, "scale", 2.0),
    "an attribute that was not there": lambda m: setattr(m, "dropped", True),
    "a list that grows": lambda m: m.parts.append(nn.Identity()),
    "another part": lambda m: setattr(m, "first", nn.Linear(3, 5, bias=False)),
    "another parameter": lambda m: setattr(m.first, "weight", nn.Parameter(torch.ones(5, 3))),
    "other memory behind a parameter": lambda m: setattr(m.first.weight, "data", torch.ones(5, 3)),
    "a parameter laid out in another way": lambda m: setattr(m.first.weight, "data", torch.ones(3, 5).t()),
    "a frozen parameter": lambda m: m.first.weight.requires_grad_(False),
    "a hook": lambda m: registered(m.first),
    "a backward hook": lambda m: m.second.register_full_backward_hook(lambda mod, gi, go: (gi[0] * 2,)),
}
AROUND: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device": lambda: torch.device("cpu"),
}
ARGUMENTS: dict[str, Callable[[], Any]] = {
    "more rows": lambda: torch.cat([X, X]),
    "another layout": lambda: X.t().contiguous().t(),
    "double precision": lambda: X.double(),
    "one that requires gradients": lambda: X.clone().requires_grad_(),
    "a subclass": lambda: nn.Parameter(X.clone()),
}


def trained(model: Any, x: torch.Tensor) -> list[Any]:
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y, x.grad, *(p.grad for p in model.parameters())]


@pytest.fixture
def models() -> tuple[Any, Any]:
    """A wrapped model for which there is a short way, and its twin."""
    torch.manual_seed(0)
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(4):
        trained(ours, X)
    assert ours.forward._short[0]((X,)) is not None
    return ours, theirs


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_about_the_model_leads_off_it(models: Any, change: Callable[[Any], Any]) -> None:
    for model in models:
        torch.manual_seed(1)
        change(model)
    short = models[0].forward._short[0]
    assert short((X,)) is None
    torch.testing.assert_close(*(trained(model, X) for model in models))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_stands_around_a_call_leads_off_it(models: Any, around: Callable[[], Any]) -> None:
    results = []
    for model in models:
        with around():
            assert model is not models[0] or model.forward._short[0]((X,)) is None
            results.append(trained(model, X))
    torch.testing.assert_close(*results)


def test_another_default_dtype_leads_off_it(models: Any) -> None:
    results = []
    for model in models:
        torch.set_default_dtype(torch.float64)
        try:
            results.append(trained(model, X))
        finally:
            torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(*results)
    assert results[0][0].dtype == results[1][0].dtype


@pytest.mark.parametrize("argument", ARGUMENTS.values(), ids=ARGUMENTS)
def test_other_arguments_lead_off_it(models: Any, argument: Callable[[], Any]) -> None:
    assert models[0].forward._short[0]((argument(),)) is None
    results = []
    for model in models:
        x = argument()
        results.append(trained(model.to(x.dtype), x))
    torch.testing.assert_close(*results)


def test_a_hook_for_every_module_leads_off_it(models: Any) -> None:
    hook = nn.modules.module.register_module_forward_hook(lambda m, args, out: out * 2)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(hook.remove)
        assert models[0].forward._short[0]((X,)) is None
        torch.testing.assert_close(*(trained(model, X) for model in models))


def test_it_is_written_anew_for_what_is_usual_later(models: Any) -> None:
    ours, theirs = models
    for model in models:
        model.scale = 3.0
    for _ in range(40):
        seen = trained(ours, X)
    assert ours.forward._short[0]((X,)) is not None
    torch.testing.assert_close(seen, trained(theirs, X))


def test_a_model_that_sets_something_at_each_call_pays_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Any] = []
    monkeypatch.setattr("memograd.frontend.forward.lane_of", lambda *args: written.append(args))
    model: Any = mg.wrap(Model(), check="never")
    for _ in range(20):
        model.scale = float("0.5")  # equal, and another object
        model(X).sum().backward()
    assert len(model.forward.captures) == 1 and 2 <= len(written) <= 5


def test_the_many_places_of_a_large_model_are_compared_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_MOST", 0)
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(4):
        trained(ours, X)
    assert ours.forward._short[0]((X,)) is not None
    for model in (ours, theirs):
        model.scale = 7.0
    torch.testing.assert_close(trained(ours, X), trained(theirs, X))
