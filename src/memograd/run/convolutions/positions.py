"""Convolutions one position at a time: what a batch has at one pixel is a matrix, and each tap of the filter takes it
to one result. Nothing is multiplied with the zeros around an image (of 3x3 pixels and a 3x3 filter, 32 products of 81),
and filters are read once. For small images of many channels, in batches, that is the fastest way."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch

from memograd import c_compiler
from memograd.run.convolutions.vectors import with_vectors
from memograd.run.threads import in_parts

_FEWEST = 4  # images, which are the rows of a product
_MOST = 1 << 14  # pairs of a tap and a pixel
_CHUNK = 16  # channels, as in C
_SHARE = 1 << 16  # elements to move, and multiply-adds, from which another thread is worth waking
_Target = Literal["result", "pixel", "tap"]


def fits(image: tuple[int, ...], filters: tuple[int, ...], result: tuple[int, ...]) -> bool:
    """Whether there are enough images, and few enough positions."""
    return image[0] >= _FEWEST and prod(filters[2:]) * prod(result[2:]) <= _MOST


def convolution(x: torch.Tensor, w: torch.Tensor, size: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """[n, o, *size] of images [n, c, h, w] and filters [o, c, kh, kw]."""
    pairs = _Pairs.of("result", x.shape, w.shape, size, stride, padding)
    return _sums(x, w, x.new_empty((len(x), len(w), *size)), pairs, turned=False)


def input_gradient(g: torch.Tensor, w: torch.Tensor, shape: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """The gradient of images of this shape by that of results [n, o, h, w]."""
    pairs = _Pairs.of("pixel", shape, w.shape, g.shape[2:], stride, padding)
    return _sums(g, w, g.new_empty(tuple(shape)), pairs, turned=True)


def filter_gradient(g: torch.Tensor, x: torch.Tensor, shape: Sequence[int], stride: Any, padding: Any) -> torch.Tensor:
    """The gradient of filters of this shape."""
    pairs = _Pairs.of("tap", x.shape, shape, g.shape[2:], stride, padding)
    n, o, c, pixels, taps = len(x), shape[0], shape[1], x[0, 0].numel(), prod(shape[2:])
    by_position, w = _by_position(g), g.new_empty(tuple(shape))
    places = _pointers(by_position, x, w)
    sizes, function = (n, o, c, taps, g[0, 0].numel(), pixels), library().memograd_position_filters
    works = _works(g, pixels * n + _CHUNK * taps)

    def blocks(first: int, last: int) -> None:
        function(*places, *_pointers(next(works)), pairs.starts, pairs.pairs, *sizes, first, last)

    in_parts(blocks, -(-c // _block()), 1)
    return w


def _sums(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, pairs: _Pairs, turned: bool) -> torch.Tensor:
    n, k, m, taps, targets = len(x), x.shape[1], y.shape[1], w[0, 0].numel(), y[0, 0].numel()
    by_position = _by_position(x)
    places, sizes = _pointers(by_position, w, y), (n, k, m, taps, x[0, 0].numel(), targets)
    function = library().memograd_position_sums
    works = _works(y, targets * n + _CHUNK * taps)

    def blocks(first: int, last: int) -> None:
        function(*places, *_pointers(next(works)), pairs.starts, pairs.pairs, *sizes, turned, first, last)

    in_parts(blocks, -(-m // _block()), 1)
    return y


def _works(like: torch.Tensor, positions: int) -> Iterator[torch.Tensor]:
    """Memory for each thread, of this thread: places of the others are nobody's to plan."""
    return iter(like.new_empty((torch.get_num_threads(), _block() * positions)))


def _by_position(x: torch.Tensor) -> torch.Tensor:
    """[channels / 16][positions][16][n]"""
    n, channels, positions = len(x), x.shape[1], x[0, 0].numel()
    result = x.new_empty(x.numel())
    places, function = _pointers(x, result), library().memograd_by_position
    each = _CHUNK * positions * n
    in_parts(lambda *part: function(*places, n, channels, positions, *part), -(-channels // _CHUNK), _SHARE // each)
    return result


class _Pairs:
    """Who meets whom: result p and pixel q, at a tap, sorted by one of the three.

    Attributes:
        starts: first pair of each target, and their number.
        pairs: the two others: pixel and tap of a result, result and tap of a pixel, result and pixel of a tap.
    """

    def __init__(self, target: _Target, image: Any, kernel: Any, size: Any, stride: Any, padding: Any) -> None:
        (h, w), (kh, kw), (rows, columns) = image, kernel, size
        counts = {"result": rows * columns, "pixel": h * w, "tap": kh * kw}
        lists: list[list[int]] = [[] for _ in range(counts[target])]
        for a, i in ((a, i) for a in range(kh) for i in range(rows) if 0 <= i * stride[0] + a - padding[0] < h):
            for b, j in ((b, j) for b in range(kw) for j in range(columns) if 0 <= j * stride[1] + b - padding[1] < w):
                result, tap = i * columns + j, a * kw + b
                pixel = (i * stride[0] + a - padding[0]) * w + j * stride[1] + b - padding[1]
                match target:
                    case "result":
                        lists[result] += (pixel, tap)
                    case "pixel":
                        lists[pixel] += (result, tap)
                    case "tap":
                        lists[tap] += (result, pixel)
        starts = [0]
        for own in lists:
            starts.append(starts[-1] + len(own) // 2)
        self.starts = (ctypes.c_long * len(starts))(*starts)
        self.pairs = (ctypes.c_long * (2 * starts[-1]))(*(number for own in lists for number in own))

    @classmethod
    def of(cls, target: _Target, image: Any, filters: Any, size: Any, stride: Any, padding: Any) -> _Pairs:
        """Made once."""
        return _pairs(target, *map(tuple, (image[2:], filters[2:], size, stride, padding)))


@lru_cache(maxsize=256)
def _pairs(*of: Any) -> _Pairs:
    return _Pairs(*of)


def _pointers(*tensors: torch.Tensor) -> list[Any]:
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


def _block() -> int:
    return library().memograd_columns()


def _text() -> str:
    return with_vectors(Path(__file__).with_name("positions.c").read_text())


@cache
def library() -> Any:
    """Raises BackendError where there is no C compiler, or none that knows vectors."""
    library = c_compiler.load(_text(), contracted=True)
    pointer, number = ctypes.c_void_p, ctypes.c_long
    arguments = {
        "memograd_by_position": [pointer] * 2 + [number] * 5,
        "memograd_position_sums": [pointer] * 6 + [number] * 6 + [ctypes.c_int] + [number] * 2,
        "memograd_position_filters": [pointer] * 6 + [number] * 8,
        "memograd_columns": [],
    }
    for name, types in arguments.items():
        getattr(library, name).argtypes = types
    return library
