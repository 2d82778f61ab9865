"""Compiled batch normalization is PyTorch's in float64, up to the rounding of float32."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import memograd as mg
from memograd import c_compiler
from memograd.lower.lower import lower
from memograd.run import batch_norm, threads

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
aten, memograd = torch.ops.aten, torch.ops.memograd
FORWARD, BACKWARD = memograd.batch_norm.default, memograd.batch_norm_backward.default
ROUNDING = 1e-6  # of the largest number


def numbers(shape, seed=0):
    torch.manual_seed(seed)
    x, g = 3 * torch.randn(shape) + torch.randn(shape[1]).view(-1, *[1] * (len(shape) - 2)), torch.randn(shape)
    w, b, mean, variance = (torch.randn(shape[1]) for _ in range(4))
    return x, w, b, mean, variance.abs(), g


def double(*tensors):
    return [None if t is None else t.double() for t in tensors]


def assert_close(ours, theirs, rounding=ROUNDING):
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and (a.double() - b).abs().max() <= rounding * (1 + b.abs().max())


def compare(shape, affine, rectify, momentum=0.1, eps=1e-5):
    x, w, b, mean, variance, g = numbers(shape)
    w, b = (w, b) if affine else (None, None)
    ours = memograd.batch_norm(x, w, b, mean, variance, momentum, eps, rectify)
    y, *rest = aten._native_batch_norm_legit_functional(*double(x, w, b, mean, variance), True, momentum, eps)
    assert_close(ours, (y.relu() if rectify else y, *rest))
    kept = ours[0] if rectify else None
    dx = memograd.batch_norm_backward(g, kept, x, w, ours[1], ours[2], eps, [True, affine, affine])
    masked = g.double() if kept is None else g.double() * (kept > 0)
    how = (*double(x, w), None, None, *rest[:2], True, eps, [True, affine, affine])
    assert_close(dx, aten.native_batch_norm_backward(masked, *how), 1e-5)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    c=st.integers(1, 5),
    size=st.lists(st.integers(2, 13), min_size=1, max_size=3),
    affine=st.booleans(),
    rectify=st.booleans(),
)
def test_of_any_size(n, c, size, affine, rectify):
    compare((n, c, *size), affine, rectify)


@pytest.mark.parametrize("rectify", [False, True])
def test_threads_share_the_channels(rectify, monkeypatch):
    monkeypatch.setattr(batch_norm, "_SHARE", 1)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 3)
    compare((3, 7, 9, 8), True, rectify, momentum=0.7, eps=1e-2)


def test_a_large_mean_costs_no_digits():
    """The variance is of differences from the mean, as PyTorch's is."""
    x, w, b, mean, variance, _ = numbers((4, 3, 20, 20))
    x += 1e4
    ours = memograd.batch_norm(x, w, b, mean, variance, 0.1, 1e-5, False)
    theirs = aten._native_batch_norm_legit_functional(*double(x, w, b, mean, variance), True, 0.1, 1e-5)
    assert (ours[2].double() / theirs[2] - 1).abs().max() < 1e-6


def test_nan_and_infinity_are_where_pytorch_has_them():
    x, w, b, mean, variance, g = numbers((2, 3, 7, 7))
    x[0, 1, 3, 3], x[1, 2, 0, 0] = torch.nan, torch.inf
    y = memograd.batch_norm(x, w, b, mean, variance, 0.1, 1e-5, True)[0]
    z, *theirs = aten._native_batch_norm_legit_functional(x, w, b, mean, variance, True, 0.1, 1e-5)
    torch.testing.assert_close(y, z.relu(), equal_nan=True)
    back = memograd.batch_norm_backward(g, y, x, w, *theirs[:2], 1e-5, [True] * 3)
    masked = aten.threshold_backward(g, z.relu(), 0)
    how = (x, w, None, None, *theirs[:2], True, 1e-5, [True] * 3)
    for a, b in zip(back, aten.native_batch_norm_backward(masked, *how), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_other_memory_than_was_said_is_pytorchs():
    x, w, b, mean, variance, g = numbers((2, 3, 7, 7))
    x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    y, *rest = memograd.batch_norm(x, w, b, mean, variance, 0.1, 1e-5, True)
    z, *others = aten._native_batch_norm_legit_functional(x, w, b, mean, variance, True, 0.1, 1e-5)
    for ours, theirs in zip((y, *rest), (z.relu(), *others), strict=True):
        assert torch.equal(ours, theirs)
    back = memograd.batch_norm_backward(g, y, x, w, *rest[:2], 1e-5, [True] * 3)
    how = (x, w, None, None, *rest[:2], True, 1e-5, [True] * 3)
    for ours, theirs in zip(back, aten.native_batch_norm_backward(g * (y > 0), *how), strict=True):
        torch.testing.assert_close(ours, theirs)


def graph_of(f, *inputs):
    return lower(mg.differentiate(mg.capture(f, *inputs)))


@pytest.mark.parametrize(
    ("behind", "forward", "mask"),
    [
        (lambda y: y.relu().sin(), True, True),  # the rectifier goes into the normalization, its mask into the backward
        (lambda y: y.sin(), False, False),
        (lambda y: y.relu() + y, False, False),  # somebody else reads what is rectified
        (lambda y: F.leaky_relu(y), False, False),
    ],
)
def test_rectifiers_that_nobody_else_needs_are_part_of_it(behind, forward, mask):
    torch.manual_seed(0)
    x, w, b = torch.randn(4, 3, 20, 20), torch.randn(3), torch.randn(3)
    statistics = torch.zeros(3), torch.ones(3)

    def loss(x, w, b):
        return behind(F.batch_norm(x, *(s.clone() for s in statistics), w, b, training=True)).sum()

    inputs = [t.requires_grad_() for t in (x, w, b)]
    graph = graph_of(loss, *inputs)
    compiled = batch_norm.compiled_batch_norm(graph)
    calls = {n.target: n for n in compiled.nodes}
    assert calls[FORWARD].args[-1] is forward and (calls[BACKWARD].args[1] is not None) is mask
    assert (aten.relu.default in calls) is (not forward and aten.relu.default in {n.target for n in graph.nodes})
    values = compiled.function(*compiled.bind([t.detach() for t in inputs], {}))
    reference = loss(*inputs)
    expected = (reference.detach(), *torch.autograd.grad(reference, inputs))
    for ours, theirs in zip(values, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_small_ones_and_statistics_that_are_given_stay_pytorchs():
    statistics = torch.zeros(3), torch.ones(3)
    for x, training in ((torch.randn(2, 3, 4, 4), True), (torch.randn(4, 3, 20, 20), False)):
        graph = graph_of(
            lambda x, on: F.batch_norm(x, *statistics, training=on).sin().sum(), x.requires_grad_(), training
        )
        assert batch_norm.compiled_batch_norm(graph) is graph
