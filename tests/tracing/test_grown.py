"""Names that come to stand in front of what a program found, or in place of what it did not. Witness: the same model,
not wrapped."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.arange(12.0).view(4, 3) / 12
SETTINGS = types.ModuleType("memograd_test_settings")


class Scale:
    unit = 1.0

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        return h * self.unit


class Reversed(torch.autograd.Function):
    alpha = 1.0

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return -g[0] * Reversed.alpha


def family() -> tuple[type, type, Any]:
    """Classes of their own for each test, and a model of the last one."""

    class First(nn.Module):
        gain = 2.0

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale, self.own, self.config = nn.Linear(3, 3), Scale(), 3.0, types.SimpleNamespace()
            self.plain = type("Plain", (), {})()

        def act(self, h: torch.Tensor) -> torch.Tensor:
            return h.tanh()

        def extra(self, h: torch.Tensor) -> torch.Tensor:
            return h

    class Second(First):
        pass

    class Third(Second):
        def extra(self, h: torch.Tensor) -> torch.Tensor:
            return super().extra(h) + sum([1.0, 2.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.extra(self.act(self.linear(x))) * self.gain * type(self).gain * self.own
            h = self.scale(h) * getattr(self.plain, "shift", 1.0) * SETTINGS.gain
            return Reversed.apply(h) * len([name for name in dir(self) if name.startswith("aim_")] + [0])

    return Second, Third, Third()


def made_up(value: float) -> Callable[[str], float]:
    def answer(name: str) -> float:
        if name.startswith("__"):
            raise AttributeError(name)
        return value

    return answer


def of_the_object(second: Any, third: Any, model: Any) -> None:
    type(model.plain).__getattr__ = lambda self, name: 5.0


CHANGES: dict[str, Callable[[Any, Any, Any], None]] = {
    "a number of the class, in a subclass": lambda second, third, model: setattr(second, "gain", 5.0),
    "a method, in a subclass": lambda second, third, model: setattr(second, "act", lambda self, h: h.sin()),
    "a method that super() finds": lambda second, third, model: setattr(second, "extra", lambda self, h: h * 2),
    "a property before an attribute": lambda second, third, model: setattr(third, "own", property(lambda self: 7.0)),
    "what is asked for any name": of_the_object,
    "a method that dir() lists": lambda second, third, model: setattr(third, "aim_high", lambda self: None),
    "an attribute that dir() lists": lambda second, third, model: setattr(model, "aim_low", 1),
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setattr(SETTINGS, "__getattr__", made_up(2.0), raising=False)
    return SETTINGS


def both(model: Any, twin: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a wrapped model and its twin return, and their gradients."""
    found = []
    for each in (model, twin):
        each.zero_grad()
        y = each(X)
        y.square().sum().backward()
        found.append([y.detach(), each.linear.weight.grad.clone()])
    return found[0], found[1]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_name_in_front_of_what_was_found(change: Callable[..., None], settings: types.ModuleType) -> None:
    second, third, twin = family()
    model = mg.wrap(copy.deepcopy(twin), check="never")
    before, _ = both(model, twin)
    change(second, third, twin)
    vars(model).update({k: v for k, v in vars(twin).items() if k == "aim_low"})
    after, expected = both(model, twin)
    assert not torch.equal(after[0], before[0])
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (sys.modules[__name__], "sum", lambda values: 9.0),
        (SETTINGS, "gain", 4.0),
        (SETTINGS, "__getattr__", made_up(6.0)),
        (Scale, "__call__", lambda self, h: h * 3),
        (Reversed, "alpha", 0.5),
    ],
    ids=["a builtin", "a module's name", "a module's __getattr__", "a special method", "an autograd.Function's number"],
)
def test_what_is_looked_up_past_the_objects(
    owner: Any, name: str, value: Any, settings: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, twin = family()
    model = mg.wrap(copy.deepcopy(twin), check="never")
    before, _ = both(model, twin)
    monkeypatch.setattr(owner, name, value, raising=False)
    after, expected = both(model, twin)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("way", ["wrap", "step"])
def test_a_forward_that_fx_compiles_anew(way: str) -> None:
    twin = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    model: Any = copy.deepcopy(twin)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step: Any = mg.TrainStep(model, nn.MSELoss(), optimizer, check="never") if way == "step" else mg.wrap(model)
    for _ in range(2):
        loss = step(X, X) if way == "step" else nn.functional.mse_loss(step(X), X)
        torch.testing.assert_close(loss.detach(), nn.functional.mse_loss(twin(X), X).detach())
        for module in (model, twin):
            (output,) = module.graph.find_nodes(op="output")
            with module.graph.inserting_before(output):
                output.replace_input_with(output.args[0], module.graph.call_function(torch.sin, output.args[:1]))
            module.recompile()


def test_what_python_notes_on_a_class_means_no_other_program(settings: types.ModuleType) -> None:
    _, third, twin = family()
    model = mg.wrap(copy.deepcopy(twin), check="never")
    both(model, twin)
    copy.deepcopy(model.scale)  # notes the names of slots
    third.__annotations__  # noqa: B018
    both(model, twin)
    assert len(model.forward.captures) == 1
