"""Functions and modules compiled by ``torch.jit`` inside a program. Witness: torch.autograd through the same ones."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import memograd as mg

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)

    @torch.jit.script
    def squashed(x, times: int):
        for _ in range(times):
            x = torch.tanh(x) * 2
        return x


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module.double())


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.3)
        self.scale = 2.0
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        y = self.drop(self.norm(self.linear(x))) * self.scale
        if y.sum() > 0:
            y = y * 3
        return y


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        y = self.linear(x) + self.last
        self.last = y.detach().mean(0)
        return y


def batch(k: int) -> torch.Tensor:
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


def test_gradients_go_through_a_function_that_torchscript_differentiates_by_itself() -> None:
    x = batch(0).requires_grad_()
    for _ in range(4):  # from the third run on it does
        squashed(x, 2).sum().backward()
    theirs = torch.autograd.grad(squashed(x, 2).sum(), x)[0]
    torch.testing.assert_close(mg.grad(lambda x: squashed(x, 2).sum())(x.detach()), theirs)


def test_a_compiled_module_trains_as_in_pytorch() -> None:
    ours, theirs = scripted(Scaled()), scripted(Scaled())
    ours.load_state_dict(theirs.state_dict())
    a, b = (torch.optim.SGD(m.parameters(), 0.1) for m in (ours, theirs))
    step = mg.TrainStep(nn.Sequential(ours), lambda y, t: (y - t).square().sum(), a)
    for k in range(4):
        ours.scale = theirs.scale = 1.0 + k // 2
        torch.manual_seed(k)
        loss = step(batch(k), batch(k)[:, :2])
        torch.manual_seed(k)
        b.zero_grad()
        plain = (theirs(batch(k)) - batch(k)[:, :2]).square().sum()
        plain.backward()
        b.step()
        torch.testing.assert_close(loss, plain.detach())
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)
    assert ours.calls == theirs.calls == 4


def test_another_tensor_in_an_attribute_is_refused_and_leaves_nothing() -> None:
    module = scripted(Remembering())
    step = mg.TrainStep(nn.Sequential(module), lambda y, t: y.sum(), torch.optim.SGD(module.parameters(), 0.1))
    with pytest.raises(mg.CaptureError, match=r"compiled by torch\.jit, gives one of its attributes another tensor"):
        step(batch(0), batch(0))
    assert torch.equal(module.last, torch.zeros(2, dtype=torch.float64))
    module(batch(1)).sum().backward()
