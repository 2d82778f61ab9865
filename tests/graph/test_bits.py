"""Conjugated and negated views (``x.conj()``, ``x.conj().imag``) give what autograd gives, wherever they come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

READS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "imag": lambda x: x.imag,
    "real": lambda x: x.real.sin(),
    "view_as_real": lambda x: torch.view_as_real(x.resolve_conj()),
    "conj": lambda x: x.conj().imag * x,
    "values": lambda x: x.imag * (2 if x.imag.sum() > 0 else 3),
}


def complex_batch(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def by_autograd(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    own = x.detach().requires_grad_()
    return torch.autograd.grad(f(own), own)[0]


@pytest.mark.parametrize("read", READS)
def test_gradients_by_a_conjugated_argument_are_those_of_autograd(read: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return READS[read](x).abs().pow(2).sum()

    gradient = mg.grad(f)
    for x in (complex_batch(0), complex_batch(1).conj(), complex_batch(2)):
        torch.testing.assert_close(gradient(x), by_autograd(f, x))
        torch.testing.assert_close(mg.vjp(f, x)[1](torch.ones((), dtype=torch.float64))[0], by_autograd(f, x))


def test_tangents_and_cotangents_may_be_conjugated() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_complex(torch.stack([x.imag.sin(), x.real.exp()], -1))

    x, t = complex_batch(0), complex_batch(1)
    torch.testing.assert_close(mg.jvp(f, (x,), (t.conj(),))[1], torch.func.jvp(f, (x,), (t.conj(),))[1])
    torch.testing.assert_close(mg.linearize(f, x)[1](t.conj()), torch.func.jvp(f, (x,), (t.conj(),))[1])
    torch.testing.assert_close(mg.vjp(f, x)[1](t.conj())[0], torch.func.vjp(f, x)[1](t.conj())[0])


class Filter(nn.Module):
    """Has a conjugated buffer, as who multiplies spectra has."""

    def __init__(self, read: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(4, dtype=torch.complex128))
        self.kernel = nn.Buffer(torch.randn(4, dtype=torch.complex128).conj())
        self.read = READS[read]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(x) * self.w * self.kernel.imag


def loss(out: torch.Tensor, _: Any = None) -> torch.Tensor:
    return out.abs().pow(2).mean()


def trained(model: nn.Module, batches: list[torch.Tensor], ours: bool) -> torch.Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    step = mg.TrainStep(model, loss, optimizer, check="never") if ours else None
    for k, x in enumerate(batches):
        if k == 2:
            model.kernel.mul_(0.5)  # pyright: ignore[reportCallIssue]
        if step is not None:
            step(x, torch.zeros(1))
        else:
            optimizer.zero_grad()
            loss(model(x)).backward()
            optimizer.step()
    return model.w.detach()  # pyright: ignore[reportReturnType, reportCallIssue]


@pytest.mark.parametrize("read", ["imag", "conj", "values"])
def test_a_step_takes_conjugated_batches_and_buffers(read: str) -> None:
    batches = [complex_batch(0), complex_batch(1).conj(), complex_batch(2), complex_batch(3).conj()]
    torch.testing.assert_close(trained(Filter(read), batches, True), trained(Filter(read), batches, False))


def test_a_wrapped_model_takes_conjugated_and_negated_inputs() -> None:
    for x in (complex_batch(0).conj(), complex_batch(0).conj().imag + 0j, complex_batch(0)):
        models = [Filter("conj"), mg.wrap(Filter("conj"))]
        points = [x.detach().requires_grad_(), x.detach().requires_grad_()]
        for model, point in zip(models, points, strict=True):
            loss(model(point)).backward()
        torch.testing.assert_close(models[1].w.grad, models[0].w.grad)
        torch.testing.assert_close(points[1].grad, points[0].grad)


def test_a_program_that_asks_for_the_bit_is_refused_where_a_tensor_has_it() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * (2 if x.is_conj() else 3)).abs().sum()

    x = complex_batch(0)
    gradient = mg.grad(f)
    torch.testing.assert_close(gradient(x), by_autograd(f, x))
    with pytest.raises(mg.CaptureError, match="resolve_conj"):
        gradient(x.conj())


def test_a_negated_parameter_is_refused_by_name() -> None:
    class Negated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, dtype=torch.complex128).conj().imag)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w

    model = Negated()
    step = mg.TrainStep(model, loss, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(mg.CaptureError, match=r"'model\.w'.*resolve_conj"):
        step(torch.ones(4, dtype=torch.float64), torch.zeros(1))
