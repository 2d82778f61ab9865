"""What programs ask libraries for, and what is set in between by who calls them: the answer is that of each call. The
witness is the plain model, trained beside it."""

from __future__ import annotations

import abc
import gc
import math
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg

Case = tuple[Callable[[], float], Callable[[int], AbstractContextManager[Any]]]  # a number; what is on around call k


def errors_of_numpy() -> Case:
    return lambda: 2.0 if np.geterr()["divide"] == "ignore" else 3.0, lambda k: np.errstate(divide=_odd(k))


def division_by_zero() -> Case:
    def number() -> float:
        try:
            return float(np.isinf(np.float64(1.0) / np.float64(0.0))) + 1.0
        except FloatingPointError:
            return 3.0

    return number, lambda k: np.errstate(divide=_odd(k))


def _odd(k: int) -> Any:
    return "ignore" if k % 2 else "raise"


def numbers_as_text() -> Case:
    thirds = np.array([1 / 3])
    return lambda: float(len(np.array2string(thirds))), lambda k: np.printoptions(precision=2 + k % 2)


def switch() -> Case:
    @contextmanager
    def off(k: int) -> Any:
        torch.backends.cuda.enable_flash_sdp(bool(k % 2))
        yield
        torch.backends.cuda.enable_flash_sdp(True)

    return lambda: 2.0 if torch.backends.cuda.flash_sdp_enabled() else 3.0, off


def garbage_collection() -> Case:
    @contextmanager
    def off(k: int) -> Any:
        gc.disable() if k % 2 else None
        yield
        gc.enable()

    return lambda: 2.0 if gc.isenabled() else 3.0, off


def property_of_a_metaclass() -> Case:
    held = [2.0]

    class Meta(type):
        @property
        def scale(cls) -> float:
            return held[0]

    class Thing(metaclass=Meta):
        def number(self) -> float:
            return type(self).scale

    thing = Thing()
    return lambda: thing.number(), _then(lambda k: held.__setitem__(0, 2.0 + k))


def registered_class() -> Case:
    class Interface(abc.ABC):  # noqa: B024
        pass

    class Thing:
        pass

    thing = Thing()
    return lambda: 2.0 if isinstance(thing, Interface) else 3.0, _then(lambda k: k > 1 and Interface.register(Thing))


def module_taken_out() -> Case:
    def number() -> float:
        try:
            import standard_settings  # pyright: ignore[reportMissingImports]
        except ImportError:
            return 3.0
        return standard_settings.k

    @contextmanager
    def there(k: int) -> Any:
        if k % 2:
            sys.modules["standard_settings"] = types.ModuleType("standard_settings")
            sys.modules["standard_settings"].k = 2.0  # pyright: ignore[reportAttributeAccessIssue]
        yield
        sys.modules.pop("standard_settings", None)

    return number, there


def _then(change: Callable[[int], Any]) -> Callable[[int], AbstractContextManager[Any]]:
    return lambda k: nullcontext(change(k))


class Program(nn.Module):
    def __init__(self, number: Callable[[], float]) -> None:
        super().__init__()
        self.linear, self.number = nn.Linear(3, 1, dtype=torch.float64), number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x).mean() * self.number()).square()


def _losses(model: nn.Module, way: str, around: Callable[[int], AbstractContextManager[Any]]) -> list[float]:
    """Of four steps of SGD; ``around`` is in force at each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, None, optimizer, backend="eager") if way == "step" else None
    call = mg.wrap(model) if way == "wrap" else model
    losses = []
    for k in range(4):
        x = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3) * (1 + k)
        with around(k):
            optimizer.zero_grad()
            loss = call(x) if step is None else step(x)
            if step is None:
                loss.backward()
                optimizer.step()
        losses.append(float(loss.detach()))
    return losses


CASES = [
    *(errors_of_numpy, division_by_zero, numbers_as_text, switch, garbage_collection),
    *(property_of_a_metaclass, registered_class, module_taken_out),
]


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("make", CASES, ids=lambda f: f.__name__)
def test_as_in_pytorch(make: Callable[[], Case], way: str) -> None:
    def losses(way: str) -> list[float]:
        torch.manual_seed(0)
        number, around = make()
        return _losses(Program(number), way, around)

    assert losses(way) == pytest.approx(losses(""))


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 3, dtype=torch.float64), nn.Softplus()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(torch.relu(self.linear(x))) + F.gelu(x) * math.sqrt(4.0)
        return nn.Tanh()(y).square().mean()


PATCHES: list[tuple[Any, str, Any]] = [
    (torch, "relu", lambda x: x * 3),
    (F, "gelu", lambda x: x * 3),
    (nn, "Tanh", nn.Sigmoid),
    (math, "sqrt", lambda x: x * 3),
    (nn.Softplus, "forward", lambda self, x: x * 3),
]


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p[1])
def test_a_function_that_is_put_in_the_place_of_pytorchs(
    patch: tuple[Any, str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def around(k: int) -> Any:
        with monkeypatch.context() as patched:
            if k % 2:
                patched.setattr(*patch)
            yield

    def losses(way: str) -> list[float]:
        torch.manual_seed(0)
        return _losses(Calling(), way, around)

    assert losses(way) == pytest.approx(losses(""))
