"""What a program cannot hand out."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Scaled(nn.Module):
    """A function of ``x`` and a vector of parameters."""

    def __init__(self, function):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 2, 3, dtype=F64))
        self.function = function

    def forward(self, x):
        return self.function(x, self.w)


def gradients(model, loss, leaf):
    """Two steps of the model; x is a leaf or the result of an operator, and requires a gradient as such."""
    steps = []
    for k in range(2):
        q = torch.linspace(-1 + k, 1, 12, dtype=F64).reshape(2, 2, 3).requires_grad_(not leaf)
        x = q if leaf else q * 2
        model.zero_grad()
        loss(model(x), x, model.w).backward()
        steps += [x.detach(), model.w.grad, *([] if leaf else [q.grad])]
    return steps


def same(function, loss, leaf, **options: Any):
    model = Scaled(function)
    wrapped = mg.wrap(copy.deepcopy(model), **options)
    torch.testing.assert_close(gradients(wrapped, loss, leaf), gradients(model, loss, leaf), rtol=1e-12, atol=1e-12)


def cleared(y):
    y[..., 0] = 0
    return y


WRITTEN = {
    "added to": lambda x, w: x.add_(w),
    "in a part": lambda x, w: (x[..., 0].mul_(w[1]), x.sin())[1],
    "itself returned": lambda x, w: (x.mul_(w), x, x.flatten())[1:],
    "a copy of a result": lambda x, w: (h := (w * 2).exp().repeat(2, 2, 1), x.copy_(h))[0],
    "not of a parameter": lambda x, w: x.relu_() @ w,
}
VIEWS = {
    "reshaped": lambda x, w: (x * w).flatten(),
    "turned": lambda x, w: (x.exp() * w).transpose(0, 2),
    "a part": lambda x, w: (x * w)[:, 0],
    "two apart": lambda x, w: torch.cat([(x * w).flatten(), (x + w).flatten()]).view(2, -1),
}


@pytest.mark.parametrize("leaf", [True, False], ids=["a leaf", "a result"])
@pytest.mark.parametrize("how", WRITTEN)
def test_an_argument_that_is_written_to_has_the_history_of_what_was_written(how, leaf):
    def loss(y, x, w):
        first, *others = y if isinstance(y, tuple) else (y,)
        return first.sin().sum() + (x * x * w).sum() + sum(o.exp().sum() for o in others)

    same(WRITTEN[how], loss, leaf)


OUT_OF_SIGHT = {
    "data": lambda x, w: (x.data.mul_(2), x * w)[1],
    "a row of data": lambda x, w: (x.data[0].fill_(3.0), x * w)[1],
    "itself returned": lambda x, w: (x.data.mul_(2), x * w, x)[1:],
    "no_grad": lambda x, w: (torch.no_grad()(x.mul_)(2), x * w)[1],
}


@pytest.mark.parametrize("leaf", [True, False], ids=["a leaf", "a result"])
@pytest.mark.parametrize("how", OUT_OF_SIGHT)
def test_an_argument_that_is_written_to_out_of_autograds_sight_keeps_its_history(how, leaf):
    def one_pass(model):
        torch.manual_seed(0)
        base = torch.randn(2, 3, dtype=F64, requires_grad=True)
        x = base if leaf else base * 1.5
        y = model(x)
        first, *others = y if isinstance(y, tuple) else (y,)
        (first.sin().sum() + x.cos().sum() + sum(o.exp().sum() for o in others)).backward()
        return x, base.grad, model.w.grad

    model = Scaled(OUT_OF_SIGHT[how])
    torch.testing.assert_close(one_pass(mg.wrap(copy.deepcopy(model))), one_pass(model))


def test_the_comparison_knows_what_an_argument_was():
    """PyTorch's backward pass refuses this, ours has the old value."""
    model: Any = mg.wrap(Scaled(lambda x, w: (h := (x * w).exp(), x.copy_(h))[0]))
    x = torch.ones(2, 3, dtype=F64)
    model(x).sum().backward()
    torch.testing.assert_close(model.w.grad, 2 * model.w.detach().exp())
    assert model.forward.check_reason.startswith("agrees")


def test_within_a_budget_as_well():
    same(WRITTEN["added to"], lambda y, x, w: y.sin().sum() + (x**2).sum(), False, memory_budget="100%")


def test_an_argument_that_is_written_to_and_returned_is_the_same_object():
    x = torch.ones(2, 3, dtype=F64)
    assert mg.wrap(Scaled(WRITTEN["added to"]))(x) is x
    assert x.requires_grad


@pytest.mark.parametrize("options", [{}, {"memory_budget": "100%"}], ids=["no budget", "a budget"])
@pytest.mark.parametrize("write", [lambda y: y.mul_(3), lambda y: cleared(y), lambda y: y.div_(2).add_(1)])
@pytest.mark.parametrize("how", VIEWS)
def test_a_loop_may_write_to_a_result_that_is_a_view_in_the_model(how, write, options):
    same(VIEWS[how], lambda y, x, w: write(y).square().sum() + (w * w).sum(), True, **options)


@pytest.mark.parametrize("options", [{}, {"memory_budget": "100%"}], ids=["no budget", "a budget"])
def test_a_loop_that_writes_to_a_view_of_what_a_derivative_reads_is_told_so(options: Any):
    model: Any = mg.wrap(Scaled(lambda x, w: (x * w).exp().flatten()), **options)
    for _ in range(2):
        y: Any = model(torch.ones(2, 2, 3, dtype=F64))
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("options", [{}, {"memory_budget": "100%"}], ids=["no budget", "a budget"])
def test_a_loop_that_writes_to_one_of_two_views_of_the_same_memory_is_told_so(k, options: Any):
    model: Any = mg.wrap(Scaled(lambda x, w: ((h := x * w), h[:, 0])), **options)
    results = model(torch.ones(2, 2, 3, dtype=F64))
    with pytest.raises(RuntimeError, match="modified inplace"):
        results[k].mul_(2)
        (results[0].sum() + results[1].sum()).backward()


def test_a_view_of_an_argument_stays_one():
    """Otherwise the write would change the argument, and its history would not know."""
    for options in ({}, {"memory_budget": "100%"}):
        x = torch.ones(2, 3, dtype=F64)
        _, part = mg.wrap(Scaled(lambda x, w: (x * w, x[:, 0])), **options)(x)
        with pytest.raises(RuntimeError, match="view"):
            part.mul_(torch.ones(2, dtype=F64, requires_grad=True))
            x.sum().backward()


def test_a_buffer_that_gets_a_history_is_refused():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.total.add_(self.w * x)
            return self.total.sum()

    with pytest.raises(mg.CaptureError, match=r"writes to 'self.total' what depends on its parameters"):
        mg.wrap(Sums())(torch.ones(3))


@pytest.mark.parametrize("watch", [False, True])
def test_gradients_of_a_layer_with_sparse_ones_are_those_of_pytorch(watch):
    """The first backward pass ended in an error, where they were compared."""

    def gradients(wrapped):
        torch.manual_seed(0)
        bag, head = nn.EmbeddingBag(20, 4, mode="mean", sparse=True), nn.Linear(4, 2)
        model = nn.Sequential(bag, head)
        if wrapped:
            mg.wrap(model, watch=watch)
        model(torch.tensor([[1, 3], [3, 7]])).square().sum().backward()
        return [p.grad for p in model.parameters()]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
