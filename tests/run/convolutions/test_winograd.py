"""Convolutions by Winograd's tiles are PyTorch's in float64, up to the rounding of float32."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memograd import c_compiler
from memograd.run.convolutions import winograd

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
aten = torch.ops.aten
REST = ([1, 1], False, [0, 0], 1)
ROUNDING = 1e-5  # of the norm; PyTorch's own float32 kernels stay below 4e-6


@pytest.fixture(params=["vectors of this processor", "vectors of eight"], autouse=True)
def vectors(request, monkeypatch):
    """Most processors have those of eight numbers, and another code."""
    if request.param == "vectors of eight":
        text = winograd._text()
        monkeypatch.setattr(winograd, "_text", lambda: f"#undef __AVX512F__\n{text}")
        monkeypatch.setattr(winograd, "library", cache(winograd.library.__wrapped__))


def numbers(n, c, height, width, o, padding, seed=0):
    """Images, filters and the gradient of results."""
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(n, c, height, width, generator=generator), torch.randn(o, c, 3, 3, generator=generator)
    size = (height + 2 * padding - 2, width + 2 * padding - 2)
    return x, w, torch.randn(n, o, *size, generator=generator)


def expected(x, w, g, padding):
    """The convolution and its two gradients, by PyTorch in float64."""
    x, w, g = x.double(), w.double(), g.double()
    y = aten.convolution(x, w, None, [1, 1], [padding] * 2, *REST)
    dx, dw, _ = aten.convolution_backward(g, x, w, None, [1, 1], [padding] * 2, *REST, [True, True, False])
    return y, dx, dw


def ours(x, w, g, padding):
    parts = (
        winograd.convolution(x, w, padding),
        winograd.input_gradient(g, w, padding),
        winograd.filter_gradient(g, x, padding),
    )
    assert all(part is not None for part in parts)
    return parts


def assert_close(values, references):
    for value, reference in zip(values, references, strict=True):
        assert value.shape == reference.shape
        assert (value.double() - reference).norm() <= ROUNDING * reference.norm()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 37),
    height=st.integers(3, 21),
    width=st.integers(3, 37),
    o=st.integers(1, 21),
    padding=st.integers(0, 2),
)
def test_of_any_size(n, c, height, width, o, padding):
    x, w, g = numbers(n, c, height, width, o, padding)
    assert_close(ours(x, w, g, padding), expected(x, w, g, padding))


@pytest.mark.parametrize("cached", [1, 40_000, 10**9])
def test_in_blocks_of_any_size(cached, monkeypatch):
    monkeypatch.setattr(winograd, "_cached", lambda: cached)
    x, w, g = numbers(3, 20, 18, 30, 11, 1)
    assert_close(ours(x, w, g, 1), expected(x, w, g, 1))


def test_threads_share_the_tiles(monkeypatch):
    x, w, g = numbers(3, 5, 9, 11, 7, 1)
    alone = ours(x, w, g, 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(winograd, "_SHARE", 16)
    together = ours(x, w, g, 1)
    assert all(torch.equal(a, b) for a, b in zip(alone[:2], together[:2], strict=True))
    assert_close(together[2:], expected(x, w, g, 1)[2:])


@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan, 3e38])
def test_nothing_where_a_result_is_not_finite(number):
    x, w, g = numbers(2, 3, 8, 8, 4, 1)
    x[1, 2, 7, 7] = number
    assert winograd.convolution(x, w, 1) is None and winograd.filter_gradient(g, x, 1) is None
    g[1, 3, 7, 7] = number
    assert winograd.input_gradient(g, w, 1) is None


def test_which_convolutions_it_can_do():
    assert winograd.fits((3, 3), (1, 1), (2, 2)) and winograd.fits((3, 3), (1, 1), (0, 0))
    assert not winograd.fits((3, 3), (2, 2), (1, 1)) and not winograd.fits((5, 5), (1, 1), (2, 2))
    assert not winograd.fits((3, 3), (1, 1), (3, 3)) and not winograd.fits((3, 3), (1, 1), (0, 1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [(20, 35), (32, 48), (17, 64)])
def test_filters_that_are_larger_than_the_cache(channels, threads, monkeypatch):
    """They are made in parts, for sixteen channels each."""
    monkeypatch.setattr(winograd, "_cached", lambda: 1000)
    monkeypatch.setattr(winograd.torch, "get_num_threads", lambda: threads)
    c, o = channels
    assert winograd._share(c, o) == winograd._share(o, c) == 16
    x, w, g = numbers(2, c, 9, 12, o, 1)
    assert_close(ours(x, w, g, 1), expected(x, w, g, 1))
