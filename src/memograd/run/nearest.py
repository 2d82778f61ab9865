"""Images made larger or smaller by repeating or leaving out pixels (``nearest``), as a compiled loop along rows.

PyTorch works out for each pixel where it comes from; here that is known before, for each row and column, since PyTorch
was asked once. A row that repeats the one above is copied as a whole. Backward, where each pixel was repeated equally
often, adds its gradients in PyTorch's order. Results are PyTorch's to the last bit.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.library import Library

from memograd import c_compiler
from memograd._torch import without_modes
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.run.images import C_TYPES, WORTH, by_planes

aten = torch.ops.aten
_OPERATORS = (aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default)
_BACKWARD = (aten.upsample_nearest2d_backward.default, aten._upsample_nearest_exact2d_backward.default)

_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define("nearest2d(Tensor x, int[] size, float? scale_rows, float? scale_columns, bool exact) -> Tensor")
_LIBRARY.define(
    "nearest2d_backward(Tensor g, int[] size, int[] shape, float? scale_rows, float? scale_columns, bool exact) "
    "-> Tensor"
)

_LOOP = """
void memograd_nearest(const KIND *x, KIND *y, const long *size, const int *row, const int *column,
                      long first, long last) {
    const long h = size[0], w = size[1], rows = size[2], columns = size[3];
    for (long p = first; p < last; ++p) for (long i = 0; i < rows; ++i) {
        KIND *to = y + (p * rows + i) * columns;
        if (i && row[i] == row[i - 1]) {
            __builtin_memcpy(to, to - columns, columns * sizeof(KIND));
            continue;
        }
        const KIND *from = x + (p * h + row[i]) * w;
        for (long j = 0; j < columns; ++j) to[j] = from[column[j]];
    }
}

void memograd_nearest_backward(const KIND *g, KIND *x, const long *size, const long *times, const long *planes,
                               long first, long last) {
    const long h = size[0], w = size[1], columns = size[3], down = times[0], across = times[1], channels = planes[0];
    for (long p = first; p < last; ++p) for (long i = 0; i < h; ++i) {
        KIND *to = x + (p * h + i) * w;
        for (long j = 0; j < w; ++j) to[j] = 0;
        for (long a = 0; a < down; ++a) {
            const KIND *plane = g + p / channels * planes[1] + p % channels * planes[2];
            const KIND *from = plane + (i * down + a) * columns;
            if (across == 2) for (long j = 0; j < w; ++j) to[j] = to[j] + from[2 * j] + from[2 * j + 1];
            else for (long j = 0; j < w; ++j) for (long b = 0; b < across; ++b) to[j] += from[j * across + b];
        }
    }
}
"""


def compiled_nearest(graph: Graph) -> Graph:
    """``graph`` with its large images of this kind compiled; as it is where there is no C compiler."""
    if not any(node.target in (*_OPERATORS, *_BACKWARD) and _worth(node) for node in graph.nodes):
        return graph

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        copy = new.copy(node)
        if node.target in _OPERATORS and _worth(node):
            x, size, *scales = copy.args
            scales = [*scales, None, None][:2]
            copy.args = (x, size, *scales, node.target is _OPERATORS[1])
            copy.target = torch.ops.memograd.nearest2d.default
        elif node.target in _BACKWARD and _worth(node):
            g, size, shape, *scales = copy.args
            scales = [*scales, None, None][:2]
            copy.args = (g, size, shape, *scales, node.target is _BACKWARD[1])
            copy.target = torch.ops.memograd.nearest2d_backward.default
        return copy

    return graph.rewritten(visit)


def _worth(node: fx.Node) -> bool:
    arguments: Any = node.args
    x, *sizes = arguments
    fits = _planes_fit if node.target in _BACKWARD else _fits
    if node.kwargs or not fits(x.meta["val"]) or max(x.meta["val"].numel(), node.meta["val"].numel()) < WORTH:
        return False
    if node.target in _BACKWARD and _repeated(node.target is _BACKWARD[1], *sizes) is None:
        return False
    try:
        _library(x.meta["val"].dtype)
    except BackendError:
        return False
    return True


def _fits(x: torch.Tensor) -> bool:
    return _planes_fit(x) and x.is_contiguous()


def _planes_fit(x: torch.Tensor) -> bool:
    """Whether each plane lies together, as those of some channels of a longer tensor do."""
    if x.device.type != "cpu" or x.dtype not in C_TYPES or x.dim() != 4 or x.shape[1] < 2:
        return False
    plane = x.shape[2] * x.shape[3]
    return x.stride()[2:] == (x.shape[3], 1) and 1 < plane <= x.stride(1)


@torch.library.impl(_LIBRARY, "nearest2d", "CPU")
def _nearest2d(x: torch.Tensor, size: list[int], rows: float | None, columns: float | None, exact: bool) -> Any:
    if not _fits(x):  # it is other than the graph said
        return _OPERATORS[exact](x, size, rows, columns)
    sizes = (*x.shape[-2:], *size)
    y = x.new_empty((*x.shape[:2], *size))
    sources = [_sources(sizes[k], sizes[k + 2], scale, exact) for k, scale in enumerate((rows, columns))]
    numbers, function = (ctypes.c_long * 4)(*sizes), _library(x.dtype).memograd_nearest
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y)]
    planes, each = x.shape[0] * x.shape[1], size[0] * size[1]
    by_planes(lambda first, last: function(*pointers, numbers, *sources, first, last), planes, each)
    return y


@torch.library.impl(_LIBRARY, "nearest2d", "Meta")
def _without_data(x: Any, size: Any, rows: Any, columns: Any, exact: bool) -> Any:
    return _OPERATORS[exact](x, size, rows, columns)


@torch.library.impl(_LIBRARY, "nearest2d_backward", "CPU")
def _nearest2d_backward(
    g: torch.Tensor, size: list[int], shape: list[int], rows: float | None, columns: float | None, exact: bool
) -> Any:
    times = _repeated(exact, size, shape, rows, columns)
    if not _planes_fit(g) or times is None:
        return _BACKWARD[exact](g, size, shape, rows, columns)
    x, function = g.new_empty(shape), _library(g.dtype).memograd_nearest_backward
    numbers, repeats = (ctypes.c_long * 4)(*shape[-2:], *size), (ctypes.c_long * 2)(*times)
    strides = (ctypes.c_long * 3)(shape[1], *g.stride()[:2])
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (g, x)]
    planes, each = shape[0] * shape[1], size[0] * size[1]
    by_planes(lambda first, last: function(*pointers, numbers, repeats, strides, first, last), planes, each)
    return x


@torch.library.impl(_LIBRARY, "nearest2d_backward", "Meta")
def _backward_without_data(g: Any, size: Any, shape: Any, rows: Any, columns: Any, exact: bool) -> Any:
    return _BACKWARD[exact](g, size, shape, rows, columns)


def _repeated(exact: bool, size: Any, shape: Any, *scales: float | None) -> list[int] | None:
    """How often each pixel is repeated, downwards and across, if that is the same for all."""
    scales = (*scales, None, None)[:2]
    times = [_times(*one, exact) for one in zip(shape[-2:], size, scales, strict=True)]
    return times if all(times) else None


@cache
def _times(length: int, out: int, scale: float | None, exact: bool) -> int:
    """How often each of ``length`` pixels of a line is repeated; 0 where not all are equally often."""
    times = out // length
    return times if list(_sources(length, out, scale, exact)) == [k // times for k in range(times * length)] else 0


@cache
def _sources(length: int, out: int, scale: float | None, exact: bool) -> Any:
    """Where each of ``out`` pixels of a line comes from, as PyTorch says."""
    with without_modes():
        line = torch.arange(length, dtype=torch.float64).view(1, 1, length, 1)
        places = _OPERATORS[exact](line, [out, 1], scale, None).flatten().tolist()
    return (ctypes.c_int * out)(*map(int, places))


@cache
def _library(dtype: torch.dtype) -> Any:
    library = c_compiler.load(_LOOP.replace("KIND", C_TYPES[dtype]))
    for function, pointers in ((library.memograd_nearest, 5), (library.memograd_nearest_backward, 5)):
        function.restype, function.argtypes = None, [ctypes.c_void_p] * pointers + [ctypes.c_long] * 2
    return library
