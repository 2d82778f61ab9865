"""Convolutions as products of matrices: what a filter sees at each place of each image is a column. For many channels
of small images that is the faster way; the columns of all images stand side by side in one product."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from memograd import c_compiler
from memograd.run.threads import in_parts

_MOST = 1 << 23  # elements of all columns: they are kernel-height x kernel-width times as many as the pixels
_SHARE = 1 << 16  # of them, from which another thread is worth waking


def fits(shape: tuple[int, ...], places: int) -> bool:
    """Whether the columns of filters of this shape at so many places are few enough."""
    return shape[1] * shape[2] * shape[3] * places <= _MOST


def convolution(x: torch.Tensor, w: torch.Tensor, size: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """[n, o, *size] of images [n, c, h, w] and filters [o, c, kh, kw]."""
    columns = _columns(x, w.shape, size, stride, padding)
    y = w.flatten(1) @ columns
    return y.view(len(w), len(x), *size).transpose(0, 1).contiguous()


def input_gradient(g: torch.Tensor, w: torch.Tensor, shape: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """The gradient of images of this shape by that of results [n, o, h, w]."""
    columns = (_by_filter(g).t() @ w.flatten(1)).t().contiguous()  # faster than to walk across the filters
    x = g.new_empty(tuple(shape))
    sizes = _sizes(shape, w.shape, g.shape[2:], stride, padding)
    places, function = _pointers(columns, x), library().memograd_from_patches
    each = w[0, 0].numel() * g[:, 0].numel()
    in_parts(lambda *part: function(*places, sizes, *part), shape[1], _SHARE // max(1, each))
    return x


def filter_gradient(g: torch.Tensor, x: torch.Tensor, shape: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """The gradient of filters of this shape."""
    columns = _columns(x, shape, g.shape[2:], stride, padding)
    return (_by_filter(g) @ columns.t()).view(tuple(shape))


def _by_filter(g: torch.Tensor) -> torch.Tensor:
    return g.transpose(0, 1).reshape(g.shape[1], -1)


def _columns(x: torch.Tensor, filters: Sequence[int], size: Any, stride: Any, padding: Any) -> torch.Tensor:
    _, c, kh, kw = filters
    places = len(x) * size[0] * size[1]
    columns = x.new_empty((c * kh * kw, places))
    sizes = _sizes(x.shape, filters, size, stride, padding)
    zeros = iter(x.new_zeros((torch.get_num_threads(), library().memograd_patches_need(sizes))))
    operands, function = _pointers(x, columns), library().memograd_patches

    def channels(first: int, last: int) -> None:
        function(*operands, *_pointers(next(zeros)), sizes, first, last)

    in_parts(channels, c, _SHARE // max(1, kh * kw * places))
    return columns


def _sizes(shape: Sequence[int], filters: Sequence[int], size: Any, stride: Any, padding: Any) -> Any:
    return (ctypes.c_long * 12)(*shape, *filters[2:], *stride, *padding, *size)


def _pointers(*tensors: torch.Tensor) -> list[Any]:
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


@cache
def library() -> Any:
    """Raises BackendError where there is no C compiler."""
    library = c_compiler.load(Path(__file__).with_name("patches.c").read_text())
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.memograd_patches.argtypes = [pointer] * 4 + [number] * 2
    library.memograd_from_patches.argtypes = [pointer] * 3 + [number] * 2
    library.memograd_patches_need.argtypes, library.memograd_patches_need.restype = [pointer], number
    return library
