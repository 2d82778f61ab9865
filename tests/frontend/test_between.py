"""Gradients by a result of a wrapped model of other results of it; the model itself, unwrapped, says what is right."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd._torch import autograd as door

Tensor = torch.Tensor
Program = Callable[[nn.Module, Tensor], Any]


class Chain(nn.Module):
    """Three results: one computed of the other two, one of the first; and the first in an attribute."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.drop = nn.Dropout(drop)
        self.features: Any = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.a(x).tanh()
        second = self.drop(self.b(first)).sin() + first
        self.features = first
        return self.c(second * first).cos(), first, second


def _x() -> Tensor:
    return torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()


def _all(model: nn.Module, x: Tensor) -> list[Any]:
    return [x.grad, *(p.grad for p in model.parameters())]


def retained(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    first.retain_grad(), second.retain_grad()
    (y.square().sum() + first.sum() + second.prod()).backward()
    return [first.grad, second.grad, *_all(model, x)]


def one_retained(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    first.retain_grad()
    (y.square().sum() + second.square().sum()).backward()
    return [first.grad, *_all(model, x)]


def watched(model: nn.Module, x: Tensor) -> Any:
    seen: list[Tensor] = []
    y, first, second = model(x)
    handles = [t.register_hook(seen.append) for t in (first, second)]
    y.square().sum().backward(retain_graph=True)
    handles[0].remove()
    y.sum().backward()
    return [*seen, *_all(model, x)]


def changed(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    first.register_hook(lambda g: 2 * g)
    second.register_hook(lambda g: g.clamp(-0.1, 0.1))
    (y.square().sum() + second.sum()).backward()
    return _all(model, x)


def asked(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    both = torch.autograd.grad(y.sum() + first.square().sum(), [first, second], retain_graph=True)
    alone = torch.autograd.grad(y.square().sum(), first, retain_graph=True)
    with_weights = torch.autograd.grad(y.sum(), {"first": first, "weight": model.a.weight}, retain_graph=True)
    y.sum().backward(inputs=[second, x], retain_graph=True)
    edge = torch.autograd.graph.get_gradient_edge(second)
    return [*both, *alone, *with_weights.values(), second.grad, x.grad, *torch.autograd.grad(y.sum(), edge)]


def left_behind(model: nn.Module, x: Tensor) -> Any:
    return torch.autograd.grad(model(x)[0].square().sum(), model.features)


def path_length(model: nn.Module, x: Tensor) -> Any:
    y, first, _ = model(x)
    (slope,) = torch.autograd.grad(y.square().sum(), first, create_graph=True)
    (slope.square().sum() + y.sum()).backward()
    return [slope, *_all(model, x)]


def hessian(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    slopes = torch.autograd.grad(y.square().sum(), [first, second], create_graph=True)
    twice = torch.autograd.grad(sum(s.square().sum() for s in slopes), [first, second], create_graph=True)
    (y.sum() + sum(t.square().sum() for t in twice)).backward()
    return [*slopes, *twice, *_all(model, x)]


def with_weights_further(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    loss = y.square().sum() + first.prod() + second.sum()
    slopes = torch.autograd.grad(loss, [first, model.a.weight, x], create_graph=True)
    sum(s.square().sum() for s in slopes[:1]).backward(retain_graph=True)
    return [*slopes, *_all(model, x)]


def batched(model: nn.Module, x: Tensor) -> Any:
    y, first, _ = model(x)
    cotangents = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    return torch.autograd.grad(y, first, cotangents, is_grads_batched=True)


def written_to(model: nn.Module, x: Tensor) -> Any:
    y, first, second = model(x)
    kept = first * 1
    y *= 2
    first.retain_grad()
    (y.square().sum() + second.sum() + kept.sum()).backward()
    return [y, first.grad, *_all(model, x)]


PROGRAMS = [retained, one_retained, watched, changed, asked, left_behind, path_length, hessian, with_weights_further]
PROGRAMS += [batched, written_to]


def _compare(make: Callable[[], nn.Module], program: Program, **options: Any) -> None:
    torch.manual_seed(0)
    plain = make().double()
    ours = mg.wrap(copy.deepcopy(plain), **options)
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = program(plain, _x())
        torch.manual_seed(seed)
        got = program(ours, _x())
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_gradients_by_results_are_those_of_the_model(program: Program, check: str) -> None:
    _compare(Chain, program, check=check)


@pytest.mark.parametrize("program", [retained, asked, path_length, hessian], ids=lambda p: p.__name__)
def test_they_are_drawn_again_with_the_same_random_numbers(program: Program) -> None:
    _compare(lambda: Chain(drop=0.5), program)


@pytest.mark.parametrize("program", [retained, changed, asked], ids=lambda p: p.__name__)
def test_within_a_memory_budget(program: Program) -> None:
    with pytest.warns(UserWarning, match="does not cover this derivative"):
        _compare(Chain, program, memory_budget="100%")


def test_where_values_decide() -> None:
    class Deciding(Chain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y, first, second = super().forward(x)
            return (y[y > 0.5] if y.mean() < 2 else y), first, second

    _compare(Deciding, retained)
    _compare(Deciding, asked)


def test_a_view_of_a_result_is_still_not_to_be_written_to() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.a(x).tanh()
            return h, h[:, 0]

    def program(model: nn.Module, x: Tensor) -> Any:
        h, column = model(x)
        h.retain_grad()
        column.square().sum().backward()
        return [h.grad, *_all(model, x)]

    _compare(Views, program)
    _, column = mg.wrap(Views().double())(_x())
    with pytest.raises(RuntimeError, match="view"):
        column.add_(1)


def test_a_result_that_a_derivative_reads_and_that_was_written_to_is_refused() -> None:
    class Exp(Chain):
        def forward(self, x: Tensor) -> Any:
            first = self.a(x)
            return first.exp(), first

    model = mg.wrap(Exp().double())
    for _ in range(2):
        y, _ = model(_x())
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_first_gradient_by_something_else_is_refused() -> None:
    model = mg.wrap(Chain().double())
    x = _x()
    y, first, _ = model(x)
    for loss in (y.sum(), y.square().sum(), y.sum()):
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(mg.CaptureError, match="second order by a result"):
            torch.autograd.grad(slope.sum(), [first, x], allow_unused=True, retain_graph=True)
        torch.autograd.grad(slope.sum(), x, retain_graph=True)


def test_where_the_engine_runs_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GRAD", "_BACKWARD"):  # as if no frame of who called it were to be seen
        monkeypatch.setattr(door, name, None)
    for program in (retained, path_length, left_behind):
        _compare(Chain, program)

    def with_weights(model: nn.Module, x: Tensor) -> Any:
        y, first, _ = model(x)
        return torch.autograd.grad(y.square().sum() + first.sum(), [first, model.a.weight, x])

    _compare(Chain, with_weights)
    _compare(Chain, lambda model, x: torch.autograd.grad(model(x)[0].sum(), [x, model.a.weight]))


def test_nothing_is_kept_alive_by_it() -> None:
    model = mg.wrap(Chain().double())
    gc.collect()
    gc.disable()
    try:
        for program in (retained, path_length, hessian, asked):
            x = _x()
            program(model, x)
            there = weakref.ref(x)
            model.zero_grad()
            model.features = None
            del x
            assert there() is None, program.__name__
    finally:
        gc.enable()


def test_a_loop_in_a_thread() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            _compare(Chain, asked)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
