"""Convolutions one position at a time are PyTorch's in float64, up to the rounding of float32."""

from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memograd import c_compiler
from memograd.run import threads
from memograd.run.convolutions import positions

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
aten = torch.ops.aten
REST = ([1, 1], False, [0, 0], 1)
ROUNDING = 1e-5  # of the norm
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.fixture(params=["vectors of this processor", "vectors of eight"], autouse=True)
def vectors(request, monkeypatch):
    """Most processors have those of eight numbers, and another code."""
    if request.param == "vectors of eight":
        text = positions._text()
        monkeypatch.setattr(positions, "_text", lambda: f"#undef __AVX512F__\n{text}")
        monkeypatch.setattr(positions, "library", cache(positions.library.__wrapped__))


def numbers(shape, filters, stride, padding):
    """Images, filters and the gradient of results; the convolution and its two gradients, by PyTorch in float64."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(shape, generator=generator), torch.randn(filters, generator=generator)
    y = aten.convolution(x.double(), w.double(), None, stride, padding, *REST)
    g = torch.randn(y.shape, generator=generator)
    how = (g.double(), x.double(), w.double(), None, stride, padding, *REST, [True, True, False])
    return x, w, g, (y, *aten.convolution_backward(*how)[:2])


def ours(x, w, g, stride, padding):
    return (
        positions.convolution(x, w, g.shape[2:], stride, padding),
        positions.input_gradient(g, w, x.shape, stride, padding),
        positions.filter_gradient(g, x, w.shape, stride, padding),
    )


def compare(shape, filters, stride, padding):
    x, w, g, references = numbers(shape, filters, stride, padding)
    for value, reference in zip(ours(x, w, g, stride, padding), references, strict=True):
        assert value.shape == reference.shape and value.is_contiguous()
        assert (value.double() - reference).norm() <= ROUNDING * reference.norm()


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 13),
    c=st.integers(1, 53),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    o=st.integers(1, 53),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_of_any_size(n, c, size, o, kernel, stride, padding):
    assume(all(size[k] + 2 * padding[k] >= kernel[k] for k in range(2)))
    compare((n, c, *size), (o, c, *kernel), list(stride), list(padding))


@pytest.mark.parametrize("channels", [(16, 48), (48, 16), (97, 40), (24, 72)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (4, 4), (3, 6)])
def test_of_whole_blocks_and_others(channels, kernel):
    c, o = channels
    compare((8, c, 4, 6), (o, c, *kernel), [1, 1], [1, 1])


def test_pixels_that_no_filter_sees_have_no_gradient():
    x, w, g, _ = numbers((4, 2, 5, 5), (3, 2, 1, 1), [2, 2], [0, 0])
    dx = positions.input_gradient(g, w, x.shape, [2, 2], [0, 0])
    assert dx[..., 1::2, :].eq(0).all() and dx[..., 1::2].eq(0).all() and dx[..., ::2, ::2].ne(0).all()


def test_nothing_is_multiplied_with_the_zeros_around_an_image():
    x, w, g, _ = numbers((4, 2, 3, 3), (3, 2, 3, 3), [1, 1], [1, 1])
    w[1, 1, 0, 0] = torch.inf  # results of the first row and column do not see it, nor do the last of pixels
    y, dx, _ = ours(x, w, g, [1, 1], [1, 1])
    assert y[:, 1, 0].isfinite().all() and y[:, 1, :, 0].isfinite().all() and not y[:, 1, 1:, 1:].isfinite().any()
    assert dx[:, 1, 2].isfinite().all() and dx[:, 1, :, 2].isfinite().all() and not dx[:, 1, :2, :2].isfinite().any()


def test_threads_share_the_channels(monkeypatch):
    monkeypatch.setattr(positions, "_SHARE", 1)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 3)
    compare((5, 150, 3, 4), (170, 150, 3, 3), [2, 1], [1, 2])


def test_nothing_is_read_beyond_operands():
    """NaN stands on both sides of each."""
    x, w, g, references = numbers((4, 50, 3, 3), (70, 50, 3, 3), [1, 1], [1, 1])

    def between(t):
        longer = torch.full((t.numel() + 64,), torch.nan)
        longer[32:-32] = t.flatten()
        return longer[32:-32].view(t.shape)

    for value, reference in zip(ours(between(x), between(w), between(g), [1, 1], [1, 1]), references, strict=True):
        assert (value.double() - reference).norm() <= ROUNDING * reference.norm()


def test_few_images_and_many_positions_are_left_to_others():
    assert positions.fits((8, 512, 3, 3), (512, 512, 3, 3), (8, 512, 3, 3))
    assert not positions.fits((1, 512, 3, 3), (512, 512, 3, 3), (1, 512, 3, 3))
    assert not positions.fits((8, 3, 96, 96), (64, 3, 7, 7), (8, 64, 48, 48))
