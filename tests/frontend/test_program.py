"""What a wrapped model may write to. Witness: the same model, not wrapped, in the same loop."""

import copy
import random

import pytest
import torch
from torch import nn, optim

import memograd as mg


def by_data(parameter, value):
    parameter.data.copy_(value)


def by_detaching(parameter, value):
    parameter.detach().copy_(value)


def without_gradients(parameter, value):
    with torch.no_grad():
        parameter.copy_(value)


def by_assignment(parameter, value):
    parameter.data = value


class Sets(nn.Module):
    """The first parameter is set from the second whenever the model runs (peft's CPT), or once (gpytorch)."""

    def __init__(self, write, once):
        super().__init__()
        self.v, self.w = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3))
        self.write, self.once, self.started = write, once, False

    def forward(self, x):
        if not (self.once and self.started):
            self.write(self.v, self.w.exp())
            self.started = True
        return ((self.v.sin() + self.w) * x).sum()


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("write", [by_data, by_detaching, without_gradients, by_assignment])
def test_a_parameter_may_be_set_out_of_autograds_sight(write, once):
    torch.manual_seed(0)
    plain = Sets(write, once).double()
    wrapped = mg.wrap(copy.deepcopy(plain), backend="eager")
    optimizers = [optim.SGD(model.parameters(), lr=0.1) for model in (plain, wrapped)]
    x = torch.randn(3, dtype=torch.float64)
    for _ in range(3):
        for model, optimizer in zip((plain, wrapped), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).backward()
            optimizer.step()
        for ours, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(ours.grad, theirs.grad)
            assert ours.is_leaf


class Taking(nn.Module):
    """A forward pass that takes numbers from somewhere; without parameters, with one that is frozen, or cut off."""

    def __init__(self, take, parameter):
        super().__init__()
        self.take, self.cut = take, parameter == "cut off"
        self.w = nn.Parameter(torch.ones(()), requires_grad=self.cut) if parameter else 2.0
        self.items, self.own, self.generator = iter(range(9)), random.Random(3), torch.Generator().manual_seed(1)

    def forward(self, x):
        y = x * self.take(self) * self.w
        return y.detach() if self.cut else y


TAKES = {
    "Python's generator": lambda m: random.random(),
    "one of its own": lambda m: m.own.random(),
    "an iterator": lambda m: next(m.items),
    "one of PyTorch's": lambda m: torch.rand((), generator=m.generator),
}


@pytest.mark.parametrize("budget", [None, "100%"], ids=["no budget", "a budget"])
@pytest.mark.parametrize("parameter", ["", "frozen", "cut off"])
@pytest.mark.parametrize("take", TAKES)
def test_a_model_with_nothing_to_differentiate_takes_as_often_as_it_runs(take, parameter, budget):
    runs = []
    for change in (lambda m: m, lambda m: mg.wrap(m, memory_budget=budget)):
        model = change(Taking(TAKES[take], parameter))
        random.seed(0)
        results = [model(torch.ones(2)) for _ in range(3)]
        assert not any(r.requires_grad for r in results)
        runs.append(torch.cat([*results, torch.tensor([random.random()])]))
    assert torch.equal(*runs)


class Started(nn.Module):
    """Scales and shifts that the first batch sets, as in Glow."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.register_buffer("started", torch.tensor(False))
        self.layers = nn.Sequential(*[nn.Tanh(), nn.Sigmoid()] * 3)

    def forward(self, x):
        if not self.started:
            with torch.no_grad():
                self.scale.copy_(-x.std(0).log())
                self.shift.copy_(-x.mean(0))
                self.started.fill_(True)
        y = self.layers(x * self.scale.exp() + self.shift)
        return y.square().mean() - self.scale.sum() + (x - self.shift).square().mean()


@pytest.mark.parametrize("budget", ["100%", "80%", "65%"])
def test_what_is_seen_counts_in_the_forward_pass_whatever_the_budget(budget):
    """The look stood behind the place where the plan waits for cotangents, and there nobody compares."""
    seen = []
    for change in (lambda m: m, lambda m: mg.wrap(m, memory_budget=budget)):
        model = change(Started())
        losses = []
        for k in range(3):
            x = torch.linspace(-1, 2 + k, 32).view(16, 2).sin()
            loss = model(x)
            loss.backward()
            losses += [loss.detach(), model.scale.detach().clone(), model.scale.grad.clone()]
        seen.append(losses)
    torch.testing.assert_close(*seen)


class Scaling(nn.Module):
    """Scales by a statistic that it writes to first."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.register_buffer("size", torch.ones(4))

    def forward(self, x):
        h = self.layers[0](x).tanh()
        with torch.no_grad():
            self.size.mul_(0.9).add_(0.1 * h.abs().mean(0))
        return self.layers[1](h.sin() * self.size).square().mean()


@pytest.mark.parametrize("budget", [None, "100%", "90%"])
def test_a_buffer_that_the_backward_pass_reads_may_be_written_to(budget):
    """A plan that a first, unforeseen backward pass makes ended in an IndexError."""
    torch.manual_seed(0)
    theirs = Scaling().double()
    ours = mg.wrap(copy.deepcopy(theirs), memory_budget=budget)
    for model in (theirs, ours):
        for k in range(3):
            model(torch.linspace(-1, 1 + k, 64).view(16, 4).double()).backward()
    pairs = zip(theirs.parameters(), ours.parameters(), strict=True)
    torch.testing.assert_close(ours.size, theirs.size, rtol=1e-12, atol=0)
    torch.testing.assert_close([q.grad for _, q in pairs], [p.grad for p in theirs.parameters()], rtol=1e-10, atol=0)


def constant_of_the_program(model, x, given):
    with torch.inference_mode():
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0])


def carried(model, x, given):
    with torch.inference_mode():
        model.last = x.mean(0) if model.last is None else model.last / 2 + x.mean(0)
    return model.last


def argument(model, x, given):
    return given


class Adds(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what, self.last = nn.Linear(4, 4), what, None

    def forward(self, x, given):
        return (self.linear(x) + self.what(self, x, given)).square().mean()


@pytest.mark.parametrize("budget", [None, "100%"], ids=["no budget", "a budget"])
@pytest.mark.parametrize("what", [constant_of_the_program, carried, argument])
def test_tensors_of_inference_mode_may_be_read(what, budget):
    """They do not count how often they are written to, and a call asked them."""
    torch.manual_seed(0)
    theirs = Adds(what)
    ours = mg.wrap(copy.deepcopy(theirs), memory_budget=budget)
    for model in (theirs, ours):
        for k in range(3):
            with torch.inference_mode():
                given = torch.full((2, 4), 0.5 + k)
            model(torch.linspace(-1, 1 + k, 8).view(2, 4), given).backward()
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])
