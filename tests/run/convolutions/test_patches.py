"""Convolutions as products of patches are PyTorch's in float64, up to the rounding of float32."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memograd import c_compiler
from memograd.run import threads
from memograd.run.convolutions import patches

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
aten = torch.ops.aten
REST = ([1, 1], False, [0, 0], 1)
ROUNDING = 1e-5  # of the norm
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def compare(shape, filters, stride, padding):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(shape, generator=generator), torch.randn(filters, generator=generator)
    y = aten.convolution(x.double(), w.double(), None, stride, padding, *REST)
    g = torch.randn(y.shape, generator=generator)
    how = (g.double(), x.double(), w.double(), None, stride, padding, *REST, [True, True, False])
    dx, dw, _ = aten.convolution_backward(*how)
    pairs = (
        (patches.convolution(x, w, y.shape[2:], stride, padding), y),
        (patches.input_gradient(g, w, x.shape, stride, padding), dx),
        (patches.filter_gradient(g, x, w.shape, stride, padding), dw),
    )
    for value, reference in pairs:
        assert value.shape == reference.shape and value.is_contiguous()
        assert (value.double() - reference).norm() <= ROUNDING * reference.norm()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 5),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    o=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_of_any_size(n, c, size, o, kernel, stride, padding):
    assume(all(size[k] + 2 * padding[k] >= kernel[k] for k in range(2)))
    compare((n, c, *size), (o, c, *kernel), list(stride), list(padding))


def test_threads_share_the_channels(monkeypatch):
    monkeypatch.setattr(patches, "_SHARE", 1)
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 3)
    compare((2, 7, 9, 8), (4, 7, 3, 5), [2, 1], [1, 2])


def test_too_many_columns_are_left_to_others():
    assert patches.fits((512, 512, 3, 3), 72) and not patches.fits((64, 64, 3, 3), 8 * 112 * 112)
