"""What a program raises in plain PyTorch comes out of a capture unchanged; what only the capture raises does not."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

import memograd as mg

X = torch.linspace(0.5, 2.0, 4)
TABLE: dict[str, float] = {}


def looked_up(x: torch.Tensor) -> torch.Tensor:
    return (x * TABLE["scale"]).sum()


CALLS: dict[str, Callable[[Any], Any]] = {
    "capture": lambda f: mg.capture(f, X),
    "grad": lambda f: mg.grad(f)(X),
    "value_and_grad": lambda f: mg.value_and_grad(f)(X),
    "vjp": lambda f: mg.vjp(f, X),
    "jvp": lambda f: mg.jvp(f, (X,), (X,)),
    "linearize": lambda f: mg.linearize(f, X),
    "jacrev": lambda f: mg.jacrev(f)(X),
    "jacfwd": lambda f: mg.jacfwd(f)(X),
    "hessian": lambda f: mg.hessian(f)(X),
    "hvp": lambda f: mg.hvp(f, (X,), (X,)),
    "grad of grad": lambda f: mg.grad(lambda x: mg.grad(f)(x).sum())(X),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_key_error_can_be_caught_and_says_where_it_was(call: Callable[[Any], Any]) -> None:
    with pytest.raises(KeyError) as error:
        call(looked_up)
    assert error.value.args == ("scale",)
    assert error.value.__cause__ is None and error.value.__context__ is None
    if sys.version_info >= (3, 11):
        assert "test_plainly.py" in error.value.__notes__[0] and 'TABLE["scale"]' in error.value.__notes__[0]


class OwnError(Exception):
    """The user's."""


class Failing(nn.Module):
    """Leaves all kinds of traces, and fails in its second half."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.fails = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(4))
        self.calls, self.losses = 0, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += x.sum(0)
        h = nn.functional.dropout(self.norm(x * torch.rand(1)), 0.5)
        self.losses.append(h.sum())
        random.random()
        x.mul_(2)
        if h.sum() < 1e9:  # a look at a value: captured on the batch
            raise OwnError("not today")
        return self.fails(h)


def test_a_step_that_raises_leaves_nothing_behind() -> None:
    model, x = Failing(), torch.randn(8, 4)
    step = mg.TrainStep(model, nn.MSELoss(), optim.Adam(model.parameters()))
    before, batch = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
    states = torch.get_rng_state(), random.getstate()
    for _ in range(2):
        with pytest.raises(OwnError, match="not today"):
            step(x, torch.randn(8, 1, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(x, batch) and (model.calls, model.losses) == (0, [])
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()


class Sometimes(Failing):
    """The same by a number of its own; its optimizer's loop goes on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += x.sum(0)
        h = nn.functional.dropout(self.norm(x * torch.rand(1)), 0.5)
        self.losses.append(float(self.calls))
        random.random()
        if self.calls in (1, 3):
            raise OwnError("not today")
        return self.fails(h)


@pytest.mark.parametrize("kind", [Failing, Sometimes])
@pytest.mark.parametrize("check", ["first", "never"])
def test_a_wrapped_model_that_raises_leaves_what_pytorch_leaves(kind: type[Failing], check: Any) -> None:
    left = []
    for wrapped in (True, False):
        torch.manual_seed(0)
        random.seed(0)
        model, x = kind(), torch.randn(8, 4)
        if wrapped:
            mg.wrap(model, check=check)
        for _ in range(4):
            try:
                model(x).sum().backward()
            except OwnError as error:
                assert error.__context__ is None
        kept = {k: v.clone() for k, v in model.state_dict().items()}
        left.append((kept, x, [float(v) for v in model.losses], model.calls, torch.rand(1), random.random()))
    torch.testing.assert_close(left[0], left[1])


def test_a_check_that_comes_to_fail_raises_what_it_raises() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(x).all():
            raise FloatingPointError("not finite")
        return x.sin().sum()

    torch.testing.assert_close(mg.grad(f)(X), X.cos())
    with pytest.raises(FloatingPointError, match="not finite"):
        mg.grad(f)(X / 0)


def test_the_words_of_pytorch_come_through() -> None:
    with pytest.raises(RuntimeError) as theirs:
        X @ X.reshape(2, 2)
    for call in (mg.grad(lambda x: (x @ x.reshape(2, 2)).sum()), mg.jacfwd(lambda x: x @ x.reshape(2, 2))):
        with pytest.raises(RuntimeError) as ours:
            call(X)
        assert type(ours.value) is RuntimeError and str(ours.value) == str(theirs.value)


def test_what_only_the_capture_raises_is_ours() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if type(x) is not torch.Tensor:  # the stand-in of a capture
            raise KeyError("no tensor")
        return x.sum()

    with pytest.raises(mg.CaptureError, match=r"test_plainly\.py:\d+ .*KeyError"):
        mg.capture(f, X)


def test_arguments_written_to_before_the_error_keep_their_values() -> None:
    kept = torch.zeros(4)

    def f(x: torch.Tensor) -> torch.Tensor:
        kept.add_(1)
        x.mul_(2)
        raise OwnError

    x = X.clone()
    with pytest.raises(OwnError):
        mg.grad(f)(x)
    assert torch.equal(x, X) and not kept.any()


def test_a_forward_that_is_not_written_says_so_as_pytorch_does() -> None:
    with pytest.raises(NotImplementedError, match="forward"):
        mg.capture(nn.Module(), X)
