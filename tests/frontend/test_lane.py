"""The short way into a call, and that each change leads off it. Witness: the same model, not wrapped."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import memograd as mg
from memograd.frontend import boundary, lane
from memograd.tracing.under_way import plainly

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


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.Tensor.tanh else out


AROUND: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device": lambda: torch.device("cpu"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "forward mode": forward_ad.dual_level,
    "a mode": Doubling,
    "our own comparison": plainly,
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
    assert ours.forward._short[0]((X,), {}) is not None
    return ours, theirs


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_about_the_model_leads_off_it(models: Any, change: Callable[[Any], Any]) -> None:
    for model in models:
        torch.manual_seed(1)
        change(model)
    short = models[0].forward._short[0]
    assert short((X,), {}) is None
    torch.testing.assert_close(*(trained(model, X) for model in models))


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_stands_around_a_call_leads_off_it(models: Any, around: Callable[[], Any]) -> None:
    results = []
    for model in models:
        with around():
            assert model is not models[0] or model.forward._short[0]((X,), {}) is None
            results.append(trained(model, X) if torch.is_grad_enabled() else model(X).clone())
    torch.testing.assert_close(*results)


def test_a_transform_of_torch_func_leads_off_it(models: Any) -> None:
    led: list[bool] = []

    def loss(model: Any, x: torch.Tensor) -> torch.Tensor:
        led.append(model is not models[0] or model.forward._short[0]((X,), {}) is None)
        return model(x).square().sum()

    torch.testing.assert_close(*(torch.func.grad(functools.partial(loss, model))(X) for model in models))
    assert led == [True, True]


def test_a_trace_leads_off_it(models: Any) -> None:
    traced = [torch.jit.trace(model, X, check_trace=False) for model in models]
    torch.testing.assert_close(*(trace(X * 2) for trace in traced))


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
    assert models[0].forward._short[0]((argument(),), {}) is None
    results = []
    for model in models:
        x = argument()
        results.append(trained(model.to(x.dtype), x))
    torch.testing.assert_close(*results)


def test_a_hook_for_every_module_leads_off_it(models: Any) -> None:
    hook = nn.modules.module.register_module_forward_hook(lambda m, args, out: out * 2)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(hook.remove)
        assert models[0].forward._short[0]((X,), {}) is None
        torch.testing.assert_close(*(trained(model, X) for model in models))


def test_it_is_written_anew_for_what_is_usual_later(models: Any) -> None:
    ours, theirs = models
    for model in models:
        model.scale = 3.0
    for _ in range(40):
        seen = trained(ours, X)
    assert ours.forward._short[0]((X,), {}) is not None
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


@pytest.mark.parametrize("check", ["first", "never"])
def test_usual_calls_go_it(monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs), check=check)
    for _ in range(4):
        trained(ours, X)
    monkeypatch.setattr("memograd.frontend.forward.Wrapped.run", None)
    torch.testing.assert_close(trained(ours, X), trained(theirs, X))


def test_a_usual_question_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which gradients are wanted is asked of autograd's engine, but for a look now and then."""
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(6):
        trained(ours, X)
    asked: list[Any] = []
    real = boundary.wanted_of
    monkeypatch.setattr(boundary, "wanted_of", lambda *args: asked.append(args) or real(*args))
    for _ in range(100):
        seen = trained(ours, X)
    assert 1 <= len(asked) <= 4
    torch.testing.assert_close(seen, trained(theirs, X))


def test_an_unusual_question_has_an_answer_of_its_own(models: Any) -> None:
    """The same cotangents, and other gradients asked for: PyTorch gives those, and writes no others."""

    def asked_in_turn(model: Any) -> list[Any]:
        out: list[Any] = []
        model.zero_grad()
        for k in range(60):
            y = model(X).square().sum()
            if k % 7 == 3:
                out += torch.autograd.grad(y, [model.second.weight])
            elif k % 7 == 5:
                y.backward(inputs=[model.first.bias])
            else:
                y.backward()
        return [*out, *(p.grad for p in model.parameters())]

    torch.testing.assert_close(*map(asked_in_turn, models))


def test_the_many_places_of_a_large_model_are_compared_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_MOST", 0)
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(4):
        trained(ours, X)
    assert ours.forward._short[0]((X,), {}) is not None
    for model in (ours, theirs):
        model.scale = 7.0
    torch.testing.assert_close(trained(ours, X), trained(theirs, X))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, mask: Any = None, shift: Any = 0.0) -> torch.Tensor:
        h = self.layer(x).tanh()
        return (h if mask is None else h * mask - x) + shift


KEYWORDS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((X,), {"mask": X + 1}),
    ((), {"x": X, "mask": X + 1}),
    ((), {"mask": X + 1, "x": X}),
    ((), {"x": X}),
    ((X, X + 1), {}),
    ((X,), {"mask": X}),
    ((X,), {"shift": X + 1}),
    ((X,), {"mask": X + 1, "shift": 2.0}),
    ((X,), {"mask": (X + 1).double()}),
    ((X,), {"mask": torch.ones(3)}),
    ((X,), {"mask": (X + 1).requires_grad_()}),
]


@pytest.mark.parametrize("first", range(3))
def test_calls_with_keywords_go_it_and_others_do_not(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    theirs = Two()
    ours: Any = mg.wrap(copy.deepcopy(theirs))

    def grads(model: Any, args: Any, kwargs: Any) -> Any:
        model.zero_grad()
        out = model(*args, **kwargs)
        out.square().sum().backward()
        return out.detach(), [p.grad.clone() for p in model.parameters()]

    for other in KEYWORDS:
        for args, kwargs in [*[KEYWORDS[first]] * 4, other, KEYWORDS[first]]:
            torch.testing.assert_close(grads(ours, args, kwargs), grads(theirs, args, kwargs))
    new: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(4):
        grads(new, *KEYWORDS[first])
    monkeypatch.setattr("memograd.frontend.forward.Wrapped.run", None)
    torch.testing.assert_close(grads(new, *KEYWORDS[first]), grads(theirs, *KEYWORDS[first]))
