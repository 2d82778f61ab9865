"""Convolutions of 3x3 filters that move by one pixel, with 16 products for what takes 36 (Winograd 1980; Lavin and Gray
2016, https://arxiv.org/abs/1509.09308).

A tile mixes its pixels: one that is infinite reaches results that do not see it. So nothing is returned where a result
is not finite, and another algorithm has to say which.

Transforms of tiles of 4x4 only add and halve, so results err as those of the sum written out do, or up to three times
as much (measured against float64: 2e-7 to 7e-7 of the norm where PyTorch's have 2e-7; gradients of filters half
to one and a half times PyTorch's). Larger tiles save more, and err ten times as much; they are not used.
"""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from memograd import c_compiler
from memograd.run.convolutions.vectors import with_vectors
from memograd.run.threads import at_once, in_parts

_K = 16  # elements of a tile
_WIDE = 16  # floats: more than a vector of any processor has, and a line of the cache
_SMALL = 1 << 20  # bytes of a second cache, where a processor does not say, or has less: then the third is near
_ONE, _TWO, _THREE = 1.4, 2.2, 3.0  # time of a product with so many vectors side by side
_TILES = 1024  # of a block at most: their pixels lie on the stack
_SHARE = 1 << 13  # filters, from which another thread is worth waking
_LANES = (4, 8, 16)
_MOST_PADDING = 2  # the gradient's convolution is padded by as many pixels less


def fits(kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> bool:
    """Whether a convolution is of this kind."""
    square = padding[0] == padding[1] <= _MOST_PADDING
    return kernel == (3, 3) and stride == (1, 1) and square


def convolution(x: torch.Tensor, w: torch.Tensor, padding: int) -> torch.Tensor | None:
    """[n, o, h, w] of images [n, c, h, w] and filters [o, c, 3, 3]; None where that is not finite."""
    return _convolved(x, w, padding, turned=False)


def input_gradient(g: torch.Tensor, w: torch.Tensor, padding: int) -> torch.Tensor | None:
    """The gradient of images [n, c, h, w] by that of results [n, o, h, w]: its convolution with the filters turned."""
    return _convolved(g, w, 2 - padding, turned=True)


def filter_gradient(g: torch.Tensor, x: torch.Tensor, padding: int) -> torch.Tensor | None:
    """The gradient of filters [o, c, 3, 3]."""
    o, c = g.shape[1], x.shape[1]
    cut = _Cut(x, g, padding, o)
    row = _whole(c)
    step = o * row + _WIDE
    filters = x.new_empty((len(cut.parts), _K * step))
    transposed = x.new_empty((len(cut.parts), cut.tiles * row))

    def part(k: int, first: int, last: int) -> None:
        places = _pointers(x, g, filters[k], cut.before[k], cut.after[k], transposed[k])
        library().memograd_filter_products(*places, cut.sizes, step, row, cut.block, first, last)

    at_once(part, cut.parts)
    dw = x.new_empty((o, c, 3, 3))
    whole = filters[0] if len(filters) == 1 else filters.sum(0)
    places, finite = _pointers(whole, dw), []

    def rows(first: int, last: int) -> None:
        finite.append(library().memograd_filter_gradients(*places, c, step, row, first, last))

    in_parts(rows, o, max(1, _SHARE // c))
    return dw if all(finite) else None


def _convolved(x: torch.Tensor, w: torch.Tensor, padding: int, turned: bool) -> torch.Tensor | None:
    c, o = x.shape[1], w.shape[1] if turned else w.shape[0]
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    y = x.new_empty((x.shape[0], o, height, width))
    share = _share(c, o)
    cut = _Cut(x, y, padding, share)
    step = c * share + _WIDE
    ready = share == o
    filters = x.new_empty((1 if ready else len(cut.parts), _K * step))
    of_w, of_filters = _pointers(w, filters)

    def lines(first: int, last: int) -> None:
        library().memograd_filters(of_w, of_filters, step, turned, first * _WIDE, min(last * _WIDE, c * o))

    if ready:
        in_parts(lines, -(-c * o // _WIDE), _SHARE // _WIDE)
    finite = [0] * len(cut.parts)

    def part(k: int, first: int, last: int) -> None:
        own = filters[0 if ready else k]
        places = [*_pointers(x), None if ready else of_w, *_pointers(own, y, cut.before[k], cut.after[k])]
        finite[k] = library().memograd_convolve(*places, cut.sizes, turned, share, step, cut.block, first, last)

    at_once(part, cut.parts)
    return y if all(finite) else None


def _share(c: int, o: int) -> int:
    """Channels whose filters are made at a time. Filters that do not lie in the cache would be written once, and read
    once for each block of tiles; so they are made anew for each, in parts, and blocks are large."""
    each = _K * 4 * c
    return o if each * o <= 2 * _cached() else min(o, max(_WIDE, _cached() // 2 // each // _WIDE * _WIDE))


class _Cut:
    """How images are cut into tiles, and those shared by threads.

    Attributes:
        sizes: of images before and after, as the compiled functions take them.
        block: rows of tiles that lie in the cache together; ``tiles`` in them, filled up to whole vectors.
        parts: number, first and last row of tiles of each thread.
        before, after: memory of each thread for the tiles of a block, of either image; of `share` channels after.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, padding: int, share: int) -> None:
        (n, c, h, w), (_, o, height, width) = x.shape, y.shape
        rows, columns = -(-height // 2), -(-width // 2)
        threads = max(1, min(torch.get_num_threads(), n * rows))
        bounds = [n * rows * k // threads for k in range(threads + 1)]
        self.parts = [(k, first, last) for k, (first, last) in enumerate(pairwise(bounds))]
        cached = _cached() if share == o else _cached() * 3 // 2
        most = cached // (_K * x.element_size() * (c + share)) // columns
        most = max(1, min(most, _TILES // columns, -(-n * rows // threads)))
        self.block = min(range(most, most // 2, -1), key=lambda block: _cost(n * rows // threads, block, columns))
        self.tiles = _whole(self.block * columns)
        self.sizes = (ctypes.c_long * 9)(c, h, w, rows, columns, padding, o, height, width)
        self.before = x.new_empty((threads, _size(c, self.tiles)))
        self.after = x.new_empty((threads, _size(share, self.tiles)))


@cache
def _cached() -> int:
    """Bytes of a block of tiles, before and after its product: filters lie in the cache beside it."""
    return max(library().memograd_second_cache(), _SMALL) // 2


def _cost(rows: int, block: int, columns: int) -> float:
    """Of the products of so many rows of tiles, ``block`` at a time."""
    wide = library().memograd_columns() // 3

    def one(rows: int) -> float:
        threes, rest = divmod(-(-rows * columns // wide), 3)
        return _THREE * threes + (0, _ONE, _TWO)[rest]

    return rows // block * one(block) + one(rows % block)


def _size(channels: int, tiles: int) -> int:
    return _K * (channels * tiles + _WIDE) + _WIDE


def _whole(count: int) -> int:
    return -(-count // _WIDE) * _WIDE


def _pointers(*tensors: torch.Tensor) -> list[Any]:
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


def _text() -> str:
    text, tiles = (Path(__file__).with_name(name).read_text() for name in ("winograd.c", "tiles.c"))
    return with_vectors(text.replace("\nTILES\n", "\n".join(tiles.replace("LANES", str(lanes)) for lanes in _LANES)))


@cache
def library() -> Any:
    """Raises BackendError where there is no C compiler, or none that knows vectors."""
    library = c_compiler.load(_text(), contracted=True)
    pointer, number = ctypes.c_void_p, ctypes.c_long
    arguments = {
        "memograd_filters": [pointer] * 2 + [number, ctypes.c_int] + [number] * 2,
        "memograd_filter_gradients": [pointer] * 2 + [number] * 5,
        "memograd_convolve": [pointer] * 7 + [ctypes.c_int] + [number] * 5,
        "memograd_filter_products": [pointer] * 7 + [number] * 5,
        "memograd_second_cache": [],
    }
    for name, types in arguments.items():
        getattr(library, name).argtypes = types
    library.memograd_second_cache.restype = number
    return library
