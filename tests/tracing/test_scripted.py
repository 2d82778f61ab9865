"""Functions and modules compiled by ``torch.jit`` inside a program. Witness: torch.autograd through the same ones."""

from __future__ import annotations

import warnings
from typing import Any

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


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script is deprecated

    @torch.jit.script
    def split(x: torch.Tensor, n: torch.Tensor):
        return torch.tensor_split(x, n, 1)[1].sum() + x

    @torch.jit.script
    def split_inside(x: torch.Tensor, n: torch.Tensor, k: int = 2):
        return split(x, n * 1) * k if k > 1 else x

    @torch.jit.script
    def listed(x: torch.Tensor, n: torch.Tensor):
        numbers: list[int] = n.tolist()
        return x * numbers[0]

    @torch.jit.script
    def written_out(x: torch.Tensor, n: torch.Tensor):
        return x * float(len(f"{n}"))

    @torch.jit.script
    def together_as_text(x: torch.Tensor, n: torch.Tensor):
        return x * float(len(str([n, n])))

    @torch.jit.script
    def seeding(x: torch.Tensor, n: torch.Tensor):
        torch.manual_seed(3)
        return x * torch.rand(3)

    @torch.jit.script
    def forking(x: torch.Tensor, n: torch.Tensor):
        return torch.jit.wait(torch.jit.fork(split, x, n))

    traced: Any = torch.jit.trace(
        lambda x, n: torch.tensor_split(x, n, 1)[1].sum() + x, (batch(0), torch.tensor([1, 2]))
    )
    by_size: Any = torch.jit.trace(lambda x: x[: x.shape[0] - 1] * 2, (batch(0),))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at", torch.tensor([1, 2]))

    def forward(self, x):
        return torch.tensor_split(x, self.at, 1)[1].sum() + x


class Calling(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 3, dtype=torch.float64))
        self.function = function

    def forward(self, x, n):
        return self.function(x * self.weight, n)


@pytest.mark.parametrize("function", [split, split_inside, listed, written_out, traced], ids=lambda f: f.name)
@pytest.mark.parametrize("made", [True, False])
def test_numbers_that_torchscript_reads_are_those_of_each_call(function, made: bool) -> None:
    model = mg.wrap(Calling(lambda x, n: function(x, n + 0 if made else n)), check="never")
    for at in ([1, 2], [2, 30], [1, 2], [0, 1]):
        y = model(batch(0), torch.tensor(at))
        plain = function(batch(0) * model.weight, torch.tensor(at))
        theirs = torch.autograd.grad(plain.square().sum(), model.weight)
        torch.testing.assert_close(y, plain)
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), model.weight), theirs)


def test_numbers_that_torchscript_reads_in_a_buffer_are_those_of_each_call() -> None:
    parts: Any = scripted(Parts())
    model = mg.wrap(Calling(lambda x, n: parts(x)), check="never")
    for at in ([1, 2], [2, 2], [0, 1]):
        parts.at.copy_(torch.tensor(at))
        torch.testing.assert_close(model(batch(0), None), parts(batch(0) * model.weight))


@pytest.mark.parametrize(
    ("function", "why"),
    [(together_as_text, "list of tensors as text"), (seeding, "seeds"), (forking, "in other threads")],
    ids=lambda p: getattr(p, "name", ""),
)
def test_what_torchscript_does_unseen_is_refused(function, why: str) -> None:
    with pytest.raises(mg.CaptureError, match=f"compiled by torch.jit which .*{why}.*call the function that it was"):
        mg.grad(lambda x: function(x, torch.tensor([1, 2])).sum())(batch(0))


def test_numbers_that_a_trace_makes_tensors_of_are_compared_with_pytorch() -> None:
    model: Any = mg.wrap(Calling(lambda x, n: by_size(x)), check="first")
    model(batch(0), None).sum().backward()
    assert "agree" in model.forward.check_reason
    torch.testing.assert_close(model.weight.grad, 2 * batch(0)[:-1].sum(0))
