"""Handles of hooks that a forward registers on tensors of its own, in a loop of PyTorch's. Witness: the plain model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

Tensor = torch.Tensor


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


def in_an_attribute(model: Any, y: Tensor) -> Any:
    model.handle = y.register_hook(lambda g: g * 3)


def in_a_list(model: Any, y: Tensor) -> Any:
    model.handles = [y.register_hook(lambda g: g * 3)]


def returned(model: Any, y: Tensor) -> Any:
    return y.register_hook(lambda g: g * 3)


def looking(model: Any, y: Tensor) -> Any:
    model.handle = y.register_hook(lambda g: model.seen.append(float(g.norm())))


def on_the_node_of_a_function(model: Any, y: Tensor) -> Any:
    assert y.grad_fn is not None
    model.handle = y.grad_fn.register_hook(lambda given, gradients: (given[0] * 3,))


class Model(nn.Module):
    def __init__(self, register: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 3, dtype=torch.float64))
        self.register, self.seen = register, []

    def forward(self, x: Tensor) -> Any:
        y = Doubled.apply(x * self.weight)
        return y.sin(), self.register(self, y)


def trained(model: Any, remove: Callable[[int, str], bool]) -> list[Tensor]:
    gradients = []
    for k in range(3):
        y, handle = model(torch.linspace(k, 1, 6, dtype=torch.float64).view(2, 3))
        handles = [h for h in (handle, getattr(model, "handle", None), *getattr(model, "handles", ())) if h is not None]
        for when in ("before", "behind"):
            if remove(k, when):
                handles[0].remove()
            if when == "before":
                gradients.append(torch.autograd.grad(y.sum(), model.weight)[0])
    return gradients


REGISTER = [in_an_attribute, in_a_list, returned, looking, on_the_node_of_a_function]


@pytest.mark.parametrize("register", REGISTER, ids=lambda f: f.__name__)
def test_a_hook_that_is_removed_behind_the_backward_pass_was_called(register: Any) -> None:
    plain, ours = Model(register), mg.wrap(Model(register))
    theirs = trained(plain, lambda k, when: when == "behind")
    torch.testing.assert_close(trained(ours, lambda k, when: when == "behind"), theirs)
    assert ours.seen == pytest.approx(plain.seen)


@pytest.mark.parametrize("register", REGISTER, ids=lambda f: f.__name__)
@pytest.mark.parametrize("check", ["first", "never"])
def test_a_hook_that_is_removed_in_front_of_the_backward_pass_is_refused(register: Any, check: Any) -> None:
    model = mg.wrap(Model(register), check=check)
    with pytest.raises(mg.CaptureError, match="was removed between the forward pass that registered it and the backw"):
        trained(model, lambda k, when: (k, when) == (1, "before"))


def test_the_handle_of_one_call_is_not_that_of_another() -> None:
    model: Any = mg.wrap(Model(in_an_attribute))
    x = torch.ones(2, 3, dtype=torch.float64)
    first, _ = model(x)
    handle = model.handle
    second, _ = model(x)
    handle.remove()
    plain = Model(in_an_attribute)
    theirs = torch.autograd.grad(plain(x)[0].sum(), plain.weight)
    torch.testing.assert_close(torch.autograd.grad(second.sum(), model.weight), theirs)
    with pytest.raises(mg.CaptureError, match="was removed between"):
        torch.autograd.grad(first.sum(), model.weight)


@pytest.mark.parametrize("looks", [True, False])
def test_a_hook_that_removes_itself_is_refused(looks: bool) -> None:
    def register(model: Any, y: Tensor) -> None:
        def hook(gradient: Tensor) -> Tensor:
            handle.remove()
            if looks:
                model.seen.append(1)
            return gradient * 3

        handle = y.register_hook(hook)

    with pytest.raises(mg.CaptureError, match="holds the handle of a hook on a tensor of the program's own"):
        mg.wrap(Model(register))(torch.ones(2, 3, dtype=torch.float64))
