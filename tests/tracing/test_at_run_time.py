"""Backwards that look at values are called when the graph runs, and give what autograd gives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd import as_written

Tensor = torch.Tensor


class Clipped(torch.autograd.Function):
    """Also writes to the gradient that it is given, which autograd allows."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        largest = g.abs().max()
        if largest > 1:
            g.div_(largest)
        return g * x.cos()


class ByNumPy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(2 * g.numpy() * x.detach().numpy())


class Drawn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * torch.rand_like(g) * (1 if g.sum().item() > 0 else 2)


class Halving(torch.autograd.Function):
    """A solver that goes backwards in steps of its own choice, through a module: what an adaptive adjoint does."""

    @staticmethod
    def forward(ctx, module, y, *parameters):
        ctx.module = module
        with torch.no_grad():
            for _ in range(4):
                y = y + 0.25 * module(y)
        ctx.save_for_backward(y, *parameters)
        return y

    @staticmethod
    def backward(ctx, g):
        y, *parameters = ctx.saved_tensors
        time, size, sums = 1.0, 0.5, [torch.zeros_like(p) for p in parameters]
        while time > 1e-9:
            with torch.enable_grad():
                point = y.detach().requires_grad_()
                slope = ctx.module(point)
                pulled = torch.autograd.grad(slope, (point, *parameters), g)
            if slope.abs().max() * size > 0.2 and size > 0.1:
                size /= 2
                continue
            y, g = y - size * slope.detach(), g + size * pulled[0]
            sums = [total + size * part for total, part in zip(sums, pulled[1:], strict=True)]
            time -= size
        return None, g, *sums


def hooked(y: Tensor) -> Tensor:
    y = y * 2
    y.register_hook(lambda g: g / g.norm() if g.norm() > 1 else g)
    return y


class Model(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.way = nn.Linear(4, 4).double(), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.way == "solver":
            return Halving.apply(self.inner, y, *self.inner.parameters())  # pyright: ignore[reportReturnType]
        way: Callable[[Tensor], Any] = {
            "clipped": Clipped.apply,
            "numpy": ByNumPy.apply,
            "drawn": lambda y: Drawn.apply(y) + torch.rand(4),  # pyright: ignore[reportOperatorIssue]
            "hook": hooked,
        }[self.way]
        return way(y)


def loss(y: Tensor, _: Any = None) -> Tensor:
    return y.pow(2).sum()


def batches() -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [scale * torch.randn(3, 4, dtype=torch.float64, generator=g) for scale in (0.1, 1.0, 0.1)]


def trained(model: nn.Module, ours: bool, **options: Any) -> list[Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, loss, optimizer, **options) if ours else None
    torch.manual_seed(2)
    for x in batches():
        if step is not None:
            step(x, torch.zeros(1))
        else:
            optimizer.zero_grad()
            loss(model(x)).backward()
            optimizer.step()
    return [p.detach() for p in model.parameters()] + [torch.rand(1)]


@pytest.mark.parametrize("way", ["clipped", "numpy", "drawn", "hook", "solver"])
def test_a_step_updates_as_pytorch_does(way: str) -> None:
    torch.testing.assert_close(trained(Model(way), True), trained(Model(way), False))
    torch.testing.assert_close(trained(mg.wrap(Model(way)), False), trained(Model(way), False))


class Traced(Clipped):
    """As ``torch.func`` wants it."""

    @staticmethod
    def forward(x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (g / 2 if g.abs().max() > 0.5 else g) * x.cos()


def test_rows_of_a_jacobian_come_one_by_one_and_a_batch_is_refused_as_torch_func_does() -> None:
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    rows = mg.jacrev(Traced.apply, chunk_size=1)(x)
    torch.testing.assert_close(rows, torch.func.jacrev(Traced.apply, chunk_size=1)(x))
    for jacrev in (mg.jacrev, torch.func.jacrev):
        with pytest.raises(RuntimeError, match=r"vmap: .*data-dependent control flow"):
            jacrev(Traced.apply, chunk_size=2)(x)


def test_a_second_derivative_through_it_is_refused_and_not_left_out() -> None:
    x = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
    f = lambda x: Clipped.apply(x * 3).sum()  # noqa: E731  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(mg.OpaqueBackwardError, match=r"Clipped, whose backward .* looks at values"):
        mg.hessian(f)(x.detach())
    with pytest.raises(mg.OpaqueBackwardError, match="Clipped"):
        mg.grad(f)(x).sum().backward()
    with pytest.raises(mg.OpaqueBackwardError, match="Clipped"):
        mg.jvp(f, (x.detach(),), (x.detach(),))


def test_it_is_part_of_a_program_that_takes_derivatives_itself() -> None:
    def program(x: Tensor) -> Tensor:
        return (mg.grad(lambda y: Clipped.apply(y * 3).sum())(x).detach() * x.sin()).sum()  # pyright: ignore[reportAttributeAccessIssue]

    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    point = x.clone().requires_grad_()
    inner = torch.autograd.grad(Clipped.apply(point * 3).sum(), point)[0]  # pyright: ignore[reportAttributeAccessIssue]
    expected = torch.autograd.grad((inner * point.sin()).sum(), point)[0]
    torch.testing.assert_close(mg.grad(program)(x), expected)


class OutOfReachError(Exception):
    """One of the user's."""


def refuse(g: Tensor) -> None:
    raise OutOfReachError(f"of shape {tuple(g.shape)}")


class Refusing(Clipped):
    @staticmethod
    def backward(ctx, g):
        refuse(g)


def with_hook(y: Tensor) -> Tensor:
    y = y * 2
    y.register_hook(refuse)
    return y


@pytest.mark.parametrize("part", [with_hook, Refusing.apply], ids=["hook", "backward"])  # pyright: ignore[reportAttributeAccessIssue]
def test_an_exception_of_the_users_own_comes_out_as_it_does_of_autograd(part: Callable[[Tensor], Tensor]) -> None:
    class Raising(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return part(super().forward(x)).sum()

    def ways() -> list[Callable[[Tensor], Any]]:
        models = [Raising(4, 4).double() for _ in range(3)]
        step = mg.TrainStep(models[2], lambda y, _: y, torch.optim.SGD(models[2].parameters(), lr=0.1))
        plain, wrapped = [lambda x, m=m: m(x).backward() for m in (models[0], mg.wrap(models[1]))]
        return [plain, wrapped, lambda x: step(x, torch.zeros(1)), mg.grad(lambda x: part(x * 1.0).sum())]

    for way in ways():
        with pytest.raises(OutOfReachError, match=r"of shape \(3, 4\)"):
            way(torch.ones(3, 4, dtype=torch.float64))


def test_what_raises_on_tensors_without_values_alone_is_called_at_each_run() -> None:
    lengths: list[int] = []

    def hook(g: Tensor) -> Tensor:
        if type(g) is not Tensor:
            raise TypeError("only plain tensors")
        lengths.append(len(g))
        return 3 * g

    def f(x: Tensor) -> Tensor:
        y = x.sin()
        y.register_hook(hook)
        return y.sum()

    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(mg.grad(f)(x), 3 * x.cos())
    assert {*lengths} == {4}


class Overwrites(Clipped):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        x.mul_(2 if g.sum() > 0 else 3)
        return g * x


def test_a_backward_that_writes_to_what_it_did_not_make_is_refused() -> None:
    with pytest.raises(mg.OpaqueBackwardError, match="writes to a tensor that it did not make"):
        mg.grad(lambda x: Overwrites.apply(x * 1.0).sum())(torch.ones(3))  # pyright: ignore[reportAttributeAccessIssue]


def test_no_memory_budget_is_promised_for_it() -> None:
    with pytest.raises(mg.BackendError, match=r"Clipped.*nobody can say what it allocates"):
        trained(Model("clipped"), True, memory_budget="1MiB")


def test_the_code_goes_when_its_graph_goes() -> None:
    x = torch.ones(4)
    joint = mg.differentiate(mg.capture(lambda x: Clipped.apply(x).sum(), x))  # pyright: ignore[reportAttributeAccessIssue]
    (number,) = [n.args[1] for n in joint.nodes if n.target is as_written.call]
    code = weakref.ref(as_written.code_of(number))  # pyright: ignore[reportArgumentType]
    assert joint(x)[1]["x"].shape == (4,)
    del joint
    gc.collect()
    assert code() is None
