"""``torch.compile`` with our backend. Witness: the same program, not compiled."""

import copy
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd.frontend.compile_backend import memograd_backend

F64 = torch.float64


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = self.drop(self.norm(self.first(x)).tanh())
        if h.sum() > 0:  # Dynamo ends a graph here
            h = h * 2
        return self.last(h), h.detach()


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def trained(model, call, steps=6):
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for k in range(steps):
        torch.manual_seed(k)
        x = torch.randn(4 + k % 2, 3, dtype=F64)
        optimizer.zero_grad()
        loss = call(x)[0].square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("options", [None, {"memory_budget": "1MiB"}, {"check": "always"}], ids=str)
def test_a_model_whose_graph_breaks(options):
    theirs = Net().double()
    ours = copy.deepcopy(theirs)
    compiled = torch.compile(ours, backend=memograd_backend, options=options)
    torch.testing.assert_close(trained(ours, compiled), trained(theirs, theirs), rtol=1e-8, atol=1e-10)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_second_derivatives():
    """Which ``torch.compile`` refuses with the backend it comes with."""

    def penalty(call):
        x = torch.ones(4, 3, dtype=F64, requires_grad=True)
        (g,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
        g.square().sum().backward()

    theirs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    ours = copy.deepcopy(theirs)
    penalty(torch.compile(ours, backend=memograd_backend))
    penalty(theirs)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        torch.testing.assert_close(p.grad, q.grad)


def test_sizes_that_dynamo_takes_for_symbols():
    theirs = nn.Linear(3, 2).double()
    ours = copy.deepcopy(theirs)
    compiled = torch.compile(ours, backend=memograd_backend, dynamic=True)
    for k in range(2, 6):
        for call in (compiled, theirs):
            call(torch.ones(k, 3, dtype=F64)).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_options_that_there_are_not():
    cases: Any = (({"budget": 1}, "'budget'"), ({"backend": "triton"}, "'triton'"))
    for options, error in cases:
        with pytest.raises(Exception, match=error):
            torch.compile(nn.Linear(3, 2), backend=memograd_backend, options=options)(torch.ones(1, 3))
    with pytest.raises(mg.BackendError, match="'mode'"):
        memograd_backend(nn.Linear(3, 2), [], mode="max-autotune")


def test_it_has_a_name():
    (entry,) = entry_points(group="torch_dynamo_backends", name="memograd")
    assert entry.load() is memograd_backend


class Saving(torch.autograd.Function):
    """What it saves is neither an argument nor a result: Dynamo keeps it in a variable of a function of its own."""

    @staticmethod
    def forward(ctx, x, w):
        e = (x * w).exp()
        y = e @ w
        ctx.save_for_backward(x, w, e, y)
        return y.sin()

    @staticmethod
    def backward(ctx, g):
        x, w, e, y = ctx.saved_tensors
        g = g * y.cos()
        inner = g @ w.mT * e
        return inner * w, inner * x + e.mT @ g


def test_functions_that_save_what_they_compute_on_the_way():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1.0, 1.0, 16, dtype=torch.float64).reshape(4, 4)) for _ in range(2))
    compiled = torch.compile(lambda x: Saving.apply(x, ours), backend="memograd")
    for k in range(3):
        x = torch.full((4, 4), 0.1 * (k + 1), dtype=torch.float64)
        compiled(x).square().sum().backward()
        y = ((x * theirs).exp() @ theirs).sin()  # by autograd's own rules
        y.square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def halved_by_copy(w):
    w.data.copy_(w.data * 0.5)


def halved_by_assignment(w):
    w.data = w.data * 0.5


def halved_without_gradients(w):
    with torch.no_grad():
        w.mul_(0.5)


@pytest.mark.parametrize("options", [None, {"memory_budget": "1MiB"}], ids=str)
@pytest.mark.parametrize("halve", [halved_by_copy, halved_by_assignment, halved_without_gradients])
def test_a_parameter_may_be_set_out_of_autograds_sight(halve, options):
    class Halving(nn.Linear):
        def forward(self, x):
            halve(self.weight)
            return (super().forward(x).sin(),)

    theirs = Halving(3, 2).double()
    ours = copy.deepcopy(theirs)
    compiled = torch.compile(ours, backend=memograd_backend, options=options)
    torch.testing.assert_close(trained(ours, compiled), trained(theirs, theirs), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-8, atol=1e-10)
