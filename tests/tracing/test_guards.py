"""What compares equal and is another program all the same. Witness: the same model, not wrapped."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.arange(12.0).view(4, 3) / 12


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale, self.part = nn.Linear(3, 3), 0.0, slice(1)
        self.table: Any = nn.Buffer(torch.arange(12.0).view(4, 3))
        self.unit = 0.5
        self.chosen, self.named = {1}, {1: 2.0}

    def forward(self, x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        y = self.linear(x) * self.table.size(0) + self.table.sum() * self.unit
        y = y * (2 if self.part.stop is True else 3)
        y = y * (2 if any(k is True for k in self.chosen) else 3) * (5 if any(k is True for k in self.named) else 7)
        return y + torch.atan2(torch.full((3,), self.scale), -y) + torch.atan2(torch.full((3,), shift), -y)


def resized_beside_an_equal_number(model: Any) -> None:
    model.table.resize_(2, 3)
    model.unit = float("0.5")


def member_to_true(model: Any) -> None:
    model.chosen.discard(1)
    model.chosen.add(True)


def key_to_true(model: Any) -> None:
    model.named[True] = model.named.pop(1)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "zero of the other sign": lambda m: setattr(m, "scale", -0.0),
    "a slice to True": lambda m: setattr(m, "part", slice(True)),
    "a member of a set to True": member_to_true,
    "a key to True": key_to_true,
    "a buffer that shrinks where it is": lambda m: m.table.resize_(2, 3),
    "a buffer turned around where it is": lambda m: m.table.t_(),
    "other data in the same place": lambda m: setattr(m.table, "data", m.table.data[:2]),
    "a buffer that shrinks, and an equal number": resized_beside_an_equal_number,
}


@pytest.fixture
def models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    theirs = Model()
    ours: Any = mg.wrap(copy.deepcopy(theirs))
    for _ in range(3):
        trained(ours, X)
    return ours, theirs


def trained(model: Any, *args: Any) -> list[Any]:
    model.zero_grad()
    y = model(*args)
    y.square().sum().backward()
    return [y, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_only_compares_equal_is_captured_anew(models: Any, change: Callable[[Any], Any]) -> None:
    before = trained(models[0], X)[0]
    for model in models:
        change(model)
    ours, theirs = (trained(model, X) for model in models)
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(before, theirs[0])


def test_zero_of_the_other_sign_is_another_argument(models: Any) -> None:
    for shift in (0.0, -0.0):
        torch.testing.assert_close(*(trained(model, X, shift) for model in models))


def test_nan_is_the_same_argument_again() -> None:
    model: Any = mg.wrap(Model())
    for _ in range(3):
        model(X, float("nan")).sum().backward()
    assert len(model.forward.captures) == 1


def test_a_key_of_an_argument_to_true() -> None:
    def f(parts: dict[Any, torch.Tensor]) -> torch.Tensor:
        return sum(v.square() * (2 if k is True else 3) for k, v in parts.items()).sum()  # pyright: ignore

    gradient, x = mg.grad(f), torch.ones(2)
    for key, slope in ((True, 4.0), (1, 6.0), (1.0, 6.0), (True, 4.0)):
        leaf = torch.ones(2, requires_grad=True)
        (expected,) = torch.autograd.grad(f({key: leaf}), leaf)
        assert torch.equal(gradient({key: x})[key], expected) and expected[0] == slope


class Stages(list[float]):
    def __getitem__(self, i: Any) -> Any:
        return super().__getitem__(i) + 1


class Named(dict[str, float]):
    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key) + 1


class Queue(collections.deque[float]):
    pass


@pytest.mark.parametrize(("held", "key"), [(Stages([1.0, 2.0]), 1), (Named(a=1.0), "a"), (Queue([3.0]), 0)])
def test_a_container_of_a_class_of_its_own_is_compared_by_what_it_holds(held: Any, key: Any) -> None:
    """sympy keeps its caches in a list of its own class, and KAN's forward calls sympy."""
    w = nn.Parameter(torch.ones(2))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.held = w, held

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w * self.held[key]

    own, wrapped = Scaled(), mg.wrap(Scaled())
    forward: Any = wrapped.forward
    for value in (5.0, 5.0, 7.0):
        held[key] = value
        assert torch.equal(wrapped(X[:, :2]), own(X[:, :2]))
    assert len(forward.captures) == 2


class Lying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.table: Any = nn.Buffer(torch.arange(9.0).view(3, 3) / 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.linear(x.to(self.linear.weight.dtype))) @ self.table.to(self.linear.weight.dtype)
        y = y * (2 if self.linear.weight.is_contiguous() else 3) + self.table.stride(0)
        return y.square().mean() * (2 if self.table.dtype is torch.float32 else 3)


def turned(model: Any, _: int) -> None:
    model.linear.weight.data = model.linear.weight.data.t()


def turned_buffer(model: Any, _: int) -> None:
    model.table.t_()


def of_another_dtype(model: Any, k: int) -> None:
    model.to(torch.float64 if k % 2 else torch.float32)


def buffer_of_another_dtype(model: Any, k: int) -> None:
    model.table.data = model.table.data.to(torch.float64 if k % 2 else torch.float32)


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("change", [turned, turned_buffer, of_another_dtype, buffer_of_another_dtype])
def test_square_tensors_turned_around_and_other_dtypes(change: Callable[[Any, int], None], way: str) -> None:
    model, plain = copy.deepcopy(source := Lying()), source
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), 0.1), backend="eager")
    witness = torch.optim.SGD(plain.parameters(), 0.1)
    if way == "wrap":
        mg.wrap(model)
    for k in range(5):
        for each in (model, plain):
            change(each, k)
        loss = step(X) if way == "step" else model(X)
        expected = plain(X)
        torch.testing.assert_close(loss.detach(), expected.detach())
        witness.zero_grad()
        expected.backward()
        if way == "step":
            witness.step()
        else:
            model.zero_grad()
            loss.backward()
            torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
        torch.testing.assert_close(list(model.parameters()), list(plain.parameters()))
