"""Each pass and each rewrite: values stay, work goes."""

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.simplify import algebra, common, dead
from memograd.tracing.capture import trace

aten = torch.ops.aten


def count(graph, target):
    return sum(n.target is target for n in graph.nodes)


def test_dead_drops_what_nobody_reads():
    def f(x):
        x.exp()
        return x.sin()

    x = torch.randn(3)
    graph = trace(f, (x,), {})
    smaller = dead(graph).verify()
    assert count(graph, aten.exp.default) == 1 and count(smaller, aten.exp.default) == 0
    assert torch.equal(smaller(x), graph(x))


def test_dead_keeps_random_draws():
    def f(x):
        torch.rand(3)
        return x + torch.rand(3)

    graph = dead(trace(f, (torch.zeros(3),), {}))
    torch.manual_seed(0)
    ours = graph(torch.zeros(3))
    torch.manual_seed(0)
    assert torch.equal(ours, f(torch.zeros(3)))


def test_dead_narrows_backward_kernels():
    conv = nn.Conv2d(1, 2, 3)
    x = torch.randn(1, 1, 5, 5)
    joint = mg.differentiate(mg.capture(lambda x: conv(x).sum(), x))
    (kernel,) = [n for n in joint.nodes if n.target is aten.convolution_backward.default]
    assert kernel.args[10][0] is False, "nobody needs the input's gradient"


def test_common_computes_once():
    graph = trace(lambda x: x.sin() * x.sin() + x.sin(), (torch.randn(3),), {})
    x = torch.randn(3)
    assert count(common(graph).verify(), aten.sin.default) == 1
    assert torch.equal(common(graph)(x), graph(x))


def test_common_never_merges_draws_or_different_constants():
    graph = trace(lambda x: (torch.rand_like(x) - torch.rand_like(x)) + x * 0.0 + x * -0.0, (torch.ones(9),), {})
    merged = common(graph)
    assert count(merged, aten.rand_like.default) == 2
    assert count(merged, aten.mul.Tensor) == 2


@pytest.mark.parametrize(
    ("f", "gone"),
    [
        (lambda x: x * 1, aten.mul.Tensor),
        (lambda x: torch.ones_like(x) * x, aten.mul.Tensor),
        (lambda x: x / 1, aten.div.Tensor),
        (lambda x: x.t().t() + 1, aten.t.default),
        (lambda x: x.view(3, 2) + 1, aten.view.default),
        (lambda x: x.expand(3, 2) + 1, aten.expand.default),
        (lambda x: x.view(-1).view(3, 2) + 1, aten.view.default),
    ],
)
def test_algebra_removes_the_operator_and_keeps_every_bit(f, gone):
    x = torch.randn(3, 2)
    graph = trace(f, (x,), {})
    simple = dead(algebra(algebra(graph))).verify()
    assert count(graph, gone) > 0 and count(simple, gone) == 0
    assert torch.equal(simple(x), f(x))


@pytest.mark.parametrize(
    "f", [lambda x: x * 2, lambda x: x.float() * 1, lambda x: x.t() * 1.0, lambda x: x[0] * torch.ones(3, 2)]
)
def test_algebra_leaves_what_it_must(f):
    x = torch.randn(3, 2).t().contiguous().t()
    torch.testing.assert_close(algebra(trace(f, (x,), {}))(x), f(x), rtol=0, atol=0)


def test_algebra_keeps_views_where_sums_are_formed_at_them():
    graph = trace(lambda x: (x.t().t() * 1).exp(), (torch.randn(2, 3),), {})
    assert count(dead(algebra(graph)), aten.t.default) == 0
    kept = dead(algebra(graph, keep_views=True))
    assert count(kept, aten.t.default) == 2 and count(kept, aten.mul.Tensor) == 0


def test_promotion_is_not_simplified_away():
    x = torch.ones(3, dtype=torch.int64)
    assert algebra(trace(lambda x: x * 1.0, (x,), {}))(x).dtype == torch.float32
