"""The transforms' own witness: what is wrong is caught by every transform, what is right leaves no trace."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import planted
import pytest
import torch
from torch import nn

import memograd as mg
from memograd.transforms.check import check_transforms

aten = torch.ops.aten
X = torch.linspace(-1, 1, 5, dtype=torch.float64)
T = torch.linspace(2, 1, 5, dtype=torch.float64)

TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: mg.grad(lambda x: f(x).sum())(X),
    "grad in float32": lambda f: mg.grad(lambda x: f(x).sum())(X.float()),
    "value_and_grad": lambda f: mg.value_and_grad(lambda x: (f(x).sum(), {"aux": x}), has_aux=True)(X),
    "vjp": lambda f: mg.vjp(lambda x: (x * 2, f(x)), X),
    "jvp": lambda f: mg.jvp(f, (X,), (T,)),
    "linearize": lambda f: mg.linearize(f, X),
    "jacrev": lambda f: mg.jacrev(f)(X),
    "jacfwd": lambda f: mg.jacfwd(f)(X),
    "hessian": lambda f: mg.hessian(lambda x: f(x).sum())(X),
    "hvp": lambda f: mg.hvp(lambda x: f(x).sum(), X, T),
    "grad of grad": lambda f: mg.grad(lambda x: mg.grad(lambda y: f(y).sum())(x).sum())(X),
    "grad of jvp": lambda f: mg.grad(lambda x: mg.jvp(f, (x,), (x * 2,))[1].sum())(X),
    "grad of jacrev": lambda f: mg.grad(lambda x: mg.jacrev(f)(x).sum())(X),
}


def squashed(x: torch.Tensor) -> torch.Tensor:
    return (x * x[0]).tanh() * x


@pytest.fixture(autouse=True)
def on() -> Any:
    with check_transforms(True):
        yield


@pytest.mark.one_in(3)
@pytest.mark.parametrize("call", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_wrong_rule_is_caught_by_every_transform_and_named(
    call: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(lambda x: squashed(x))  # what is right passes
    planted.rule(monkeypatch, aten.tanh.default, planted.scaled)
    for _ in range(2):  # a program that did not pass is not kept
        with pytest.raises(mg.GradientMismatchError, match=r"aten\.tanh\.default.*test_check\.py:\d+") as error:
            call(squashed)
    assert error.value.error > 1e-3
    with mg.testing.check_transforms(False):
        call(lambda x: squashed(x))  # who does not ask is not told
    assert check_transforms.on


def test_rounding_that_the_smallest_change_does_not_move_is_no_fault() -> None:
    """The value is 1 whatever ``w`` is: its derivatives are rounding, which a change of a few roundings in ``w`` leaves
    where it is, since ``sigmoid`` rounds it off."""
    generator = torch.Generator().manual_seed(1)
    x, w, W = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in [(3, 4), (4,), (4, 4)])

    def one(x: torch.Tensor, w: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return (nn.functional.normalize(w.sigmoid(), dim=-1) ** 2).sum()

    products = mg.hvp(one, (x, w, W), (x, torch.randn(4, generator=torch.Generator().manual_seed(7)).double(), W))
    assert max(product.abs().max() for product in products) < 1e-15


def test_the_message_names_argument_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    planted.rule(monkeypatch, aten.exp.default, planted.scaled)
    with pytest.raises(mg.GradientMismatchError, match=r"the gradient of 'rate' differs by 0\.05 times") as error:
        mg.grad(lambda x, rate: (x.sin() + rate.exp()).sum(), argnums=(0, 1))(X, T)
    assert error.value.name == "rate"
    with pytest.raises(mg.GradientMismatchError, match=r"the tangent of 'output_1' differs"):
        mg.jvp(lambda x: (x.sin(), x.exp()), (X,), (T,))


def test_a_wrong_new_value_and_a_wrong_result_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from memograd.transforms import transform

    norm = nn.BatchNorm1d(5).double()
    with monkeypatch.context() as patch:
        wrong = transform.capture_for
        patch.setattr(transform, "capture_for", lambda *a: planted.never_written(wrong(*a), "norm.running_mean"))
        with pytest.raises(mg.GradientMismatchError, match=r"the new value of 'norm\.running_mean'"):
            mg.grad(lambda x: norm(x).square().sum())(torch.randn(4, 5, dtype=torch.float64))
    assert torch.equal(norm.state_dict()["running_mean"], torch.zeros(5, dtype=torch.float64))


def test_a_complex_function_agrees() -> None:
    z = torch.complex(X, T)
    mg.vjp(lambda z: (z * z.conj().exp(), z.abs()), z)
    mg.jvp(lambda z: z.exp() * z.conj(), (z,), (z * 1j,))
    mg.grad(lambda z: (z**3).abs().sum())(z)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(5).double(), nn.Dropout(0.3)
        self.calls, self.seen = 0, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        h = self.drop(self.norm(x * torch.rand(1)) + random.random())
        self.seen.append(h.detach())
        x.mul_(0.5)
        return (h * x).square().sum()


def test_a_comparison_leaves_nothing_behind() -> None:
    """With and without one: the same numbers, states, generators and gradients."""

    def run(check: bool) -> Any:
        torch.manual_seed(0)
        random.seed(0)
        model, x = Stateful(), torch.linspace(0, 1, 20, dtype=torch.float64).reshape(4, 5)
        model.norm.weight.grad = torch.ones_like(model.norm.weight)
        with check_transforms(check):
            found = mg.grad(model)(x)
        left = [found, x, *model.state_dict().values(), model.norm.weight.grad, torch.get_rng_state(), *model.seen]
        return [t.detach().clone() for t in left], model.calls, random.getstate()

    (ours, *others), (plain, *without) = run(True), run(False)
    assert others == without and others[0] == 1
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)


def test_what_pytorch_cannot_run_is_passed_over_and_said_if_asked() -> None:
    def constant(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x.sin()

    def f(x: torch.Tensor) -> torch.Tensor:  # a tangent passes no_grad, and the witness knows reverse mode only
        return mg.jvp(constant, (x,), (T,))[1].sum()

    torch.testing.assert_close(mg.grad(f)(X), torch.zeros_like(X))
    with mg.testing.check_transforms(tell=True), pytest.warns(UserWarning, match="was not compared.*PyTorch cannot"):
        mg.grad(lambda x: f(x))(X)


def test_transforms_in_batches_are_compared_from_outside() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(mg.grad(lambda y: y.sin()))(x).sum()

    with mg.testing.check_transforms(tell=True):
        torch.testing.assert_close(mg.grad(f)(X), -X.sin())


def test_the_environment_turns_it_on() -> None:
    code = "import memograd as mg; print(mg.testing.check_transforms.on)"
    for value, said in (("1", "True"), ("0", "False")):
        out = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "MEMOGRAD_CHECK": value},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert out.stdout.strip() == said


@pytest.mark.parametrize("kind", ["hvp", "grad of grad"])
def test_a_function_that_writes_to_its_argument_agrees_through_two_derivatives(kind: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x.tanh_()
        return (x * x.cos()).sum()

    def slope(x: torch.Tensor) -> torch.Tensor:
        return (mg.grad(f)(x) * T).sum()

    ours, theirs = X.clone(), X.clone()
    expected = torch.autograd.functional.hvp(f, theirs, T)[1]
    with check_transforms():
        product = mg.hvp(f, ours, T) if kind == "hvp" else mg.grad(slope)(ours)
    assert torch.allclose(product, expected, rtol=1e-12)
    assert torch.equal(ours, theirs)
