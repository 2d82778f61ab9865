"""The operators are PyTorch's convolution where an algorithm of ours cannot say what it would be."""

import pytest
import torch

from memograd import c_compiler
from memograd.run.convolutions import operators  # noqa: F401  enters them

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
aten, memograd = torch.ops.aten, torch.ops.memograd
REST = ([1, 1], False, [0, 0], 1)
BY = pytest.mark.parametrize("by", ["winograd", "patches", "positions"])


def all_three(x, w, g, bias, by):
    how = ([1, 1], [1, 1], by)
    return (
        memograd.convolution(x, w, bias, *how),
        memograd.convolution_input_gradient(g, w, x.shape, *how),
        memograd.convolution_filter_gradient(g, x, w.shape, *how),
    )


def pytorchs(x, w, g, bias):
    backward = aten.convolution_backward(g, x, w, None, [1, 1], [1, 1], *REST, [True, True, False])
    return (aten.convolution(x, w, bias, [1, 1], [1, 1], *REST), *backward[:2])


def numbers():
    torch.manual_seed(0)
    return torch.randn(2, 3, 10, 9), torch.randn(4, 3, 3, 3), torch.randn(2, 4, 10, 9), torch.randn(4)


@BY
def test_infinities_and_nans_are_where_pytorch_has_them(by):
    x, w, g, bias = numbers()
    x[0, 1, 4, 4], x[1, 0, 0, 0], g[0, 0, 5, 5], g[1, 1, 9, 8] = torch.inf, torch.nan, -torch.inf, torch.nan
    for ours, theirs in zip(all_three(x, w, g, bias, by), pytorchs(x, w, g, bias), strict=True):
        assert not theirs.isfinite().all()
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@BY
def test_infinite_filters(by):
    x, w, g, bias = numbers()
    w[1, 2, 0, 0] = torch.inf
    for ours, theirs in zip(all_three(x, w, g, bias, by), pytorchs(x, w, g, bias), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@BY
@pytest.mark.parametrize("kind", ["channels last", "double"])
def test_other_operands_than_were_said_are_pytorchs(kind, by):
    def other(t):
        return t.double() if kind == "double" else t.contiguous(memory_format=torch.channels_last)

    x, w, g, bias = numbers()
    x, w, g, bias = other(x), other(w), other(g), bias.double() if kind == "double" else bias
    for ours, theirs in zip(all_three(x, w, g, bias, by), pytorchs(x, w, g, bias), strict=True):
        torch.testing.assert_close(ours, theirs)


@BY
def test_fake_tensors_have_the_shapes_of_results(by):
    from torch._subclasses import FakeTensorMode

    x, w, g, bias = numbers()
    with FakeTensorMode() as mode:
        fake = all_three(*map(mode.from_tensor, (x, w, g, bias)), by)
    real = all_three(x, w, g, bias, by)
    assert [(f.shape, f.stride(), f.dtype) for f in fake] == [(r.shape, r.stride(), r.dtype) for r in real]
