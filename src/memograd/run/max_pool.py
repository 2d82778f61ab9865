"""Maxima over windows of images, as a compiled loop along rows.

PyTorch walks through the window of each result by itself, which no processor does many of at a time: the pooling of the
lecture's CNN takes it 5 ms, and this 0.9. The results are the same to the last bit, indices too: the first of equal
elements wins, and the last NaN.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.library import Library

from memograd import c_compiler
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.run.images import C_TYPES, WORTH, by_planes

aten = torch.ops.aten
_WIDEST = 64  # elements of a window's row: each is a loop of its own, for compilers to take long over
_VECTOR = 16  # results of a row, from which its elements are worth being put side by side first
_LONGEST = 1 << 14  # elements of a row: those of its result lie on the stack

_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define(
    "max_pool2d(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode) "
    "-> (Tensor, Tensor)"
)


@dataclass(frozen=True)
class Window:
    """Sizes along one dimension: of the image, of the result, of the window and how it moves."""

    size: int
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def covered(self, offset: int) -> tuple[int, int]:
        """The results whose element number ``offset`` of the window lies in the image: from, up to."""
        start = offset * self.dilation - self.padding
        first = max(0, -(start // self.stride))
        return first, max(first, min(self.out, (self.size - 1 - start) // self.stride + 1))

    def begins(self, result: str) -> str:
        """C: the first element of the window of a result that lies in the image."""
        start = f"({result} * {self.stride} - {self.padding})"
        up = f"(-{start} + {self.dilation - 1}) / {self.dilation} * {self.dilation}"
        return f"({start} < 0 ? {start} + {up} : {start})"


def compiled_pooling(graph: Graph) -> Graph:
    """``graph`` with its large poolings compiled; as it is where there is no C compiler."""

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        copy = new.copy(node)
        if node.target is aten.max_pool2d_with_indices.default and _worth(node):
            x, *sizes = _arguments(*copy.args)
            copy.target, copy.args = torch.ops.memograd.max_pool2d.default, (x, *sizes)
        return copy

    if not any(node.target is aten.max_pool2d_with_indices.default for node in graph.nodes):
        return graph
    return graph.rewritten(visit)


def _worth(node: fx.Node) -> bool:
    x, sizes = node.args[0].meta["val"], _arguments(*node.args)[1:]  # pyright: ignore
    if x.device.type != "cpu" or not _fits(x) or node.kwargs or node.meta["val"][0].numel() < WORTH:
        return False
    if sizes[0][-1] > _WIDEST:
        return False
    try:
        _function(x.dtype, *_windows(tuple(x.shape), *map(_hashable, sizes)))
    except BackendError:
        return False
    return True


def _fits(x: torch.Tensor) -> bool:
    return x.dtype in C_TYPES and x.is_contiguous() and x.shape[-1] <= _LONGEST and x.shape[-2] * x.shape[-1] < 1 << 31


def _arguments(
    x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: Any = False
) -> tuple[Any, ...]:
    pairs = (_pair(kernel), _pair(stride if stride else kernel), _pair(padding), _pair(dilation))
    return (x, *pairs, ceil)


def _pair(value: Any) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * 2 if len(values) == 1 else values


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


@torch.library.impl(_LIBRARY, "max_pool2d", "CPU")
def _max_pool2d(
    x: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    if not _fits(x):  # it is other than the graph said
        return aten.max_pool2d_with_indices.default(x, kernel, stride, padding, dilation, ceil_mode)
    rows, columns = _windows(tuple(x.shape), *map(tuple, (kernel, stride, padding, dilation)), ceil_mode)
    shape = (*x.shape[:-2], rows.out, columns.out)
    y, where = x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
    function = _function(x.dtype, rows, columns)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y, where)]
    planes = x[..., 0, 0].numel()
    by_planes(lambda first, last: function(*pointers, first, last), planes, rows.out * columns.out)
    return y, where


@torch.library.impl(_LIBRARY, "max_pool2d", "Meta")
def _without_data(x: Any, *sizes: Any) -> Any:
    return aten.max_pool2d_with_indices.default(x, *sizes)


@cache
def _windows(
    shape: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, Window]:
    image = torch.empty(shape, device="meta")
    out = aten.max_pool2d_with_indices.default(image, kernel, stride, padding, dilation, ceil_mode)[0].shape
    sizes = zip(shape[-2:], out[-2:], kernel, stride, padding, dilation, strict=True)
    rows, columns = (Window(*numbers) for numbers in sizes)
    return rows, columns


@cache
def _function(dtype: torch.dtype, rows: Window, columns: Window) -> Any:
    function = c_compiler.load(_source(C_TYPES[dtype], rows, columns)).memograd_max_pool
    function.restype, function.argtypes = None, [ctypes.c_void_p] * 3 + [ctypes.c_long] * 2
    return function


def _compared(c: str, columns: Window) -> str:
    """C: a row of results compared with one element of each window after the other, of the image's row ``r``."""
    rows = _side_by_side(c, columns) if columns.stride > 1 and columns.out >= _VECTOR else []
    inner = list(rows)
    for offset in range(columns.kernel):
        first, last = columns.covered(offset)
        start = offset * columns.dilation - columns.padding
        at = f"j * {columns.stride} + {start}"
        element = f"in[r * {columns.size} + {at}]"
        if rows:
            further, beside = divmod(start, columns.stride)
            element = f"row{beside}[j + {further}]"
        inner += [
            "#pragma omp simd",
            f"for (int j = {first}; j < {last}; ++j) {{",
            f"    const int at = r * {columns.size} + {at};",
            f"    const {c} v = {element};",
            "    const int better = (v > best[j]) | (v != v);",
            "    best[j] = better ? v : best[j];",
            "    index[j] = better ? at : index[j];",
            "}",
        ]
    return "\n".join(inner)


def _side_by_side(c: str, columns: Window) -> list[str]:
    """C: what windows next to each other see at one place, in a row of its own, from which vectors are loaded."""
    inner: list[str] = []
    for beside in range(min(columns.stride, columns.size)):
        count = (columns.size - beside + columns.stride - 1) // columns.stride
        inner += [
            f"{c} row{beside}[{count}];",
            "#pragma omp simd",
            f"for (int j = 0; j < {count}; ++j)",
            f"    row{beside}[j] = in[r * {columns.size} + j * {columns.stride} + {beside}];",
        ]
    return inner


def _source(c: str, rows: Window, columns: Window) -> str:
    """Row after row of results: the whole row is compared with one element of each window, then with the next."""
    return f"""
void memograd_max_pool(const {c} *x, {c} *y, long long *where, long first, long last) {{
    for (long p = first; p < last; ++p) {{
        const {c} *in = x + p * {rows.size * columns.size}L;
        for (int i = 0; i < {rows.out}; ++i) {{
            const long to = p * {rows.out * columns.out}L + i * {columns.out}L;
            {c} best[{columns.out}];
            int index[{columns.out}];
            for (int j = 0; j < {columns.out}; ++j) {{
                best[j] = -__builtin_inf();
                index[j] = {rows.begins("i")} * {columns.size} + {columns.begins("j")};
            }}
            for (int a = 0; a < {rows.kernel}; ++a) {{
                const int r = i * {rows.stride} - {rows.padding} + a * {rows.dilation};
                if (r < 0 || r >= {rows.size}) continue;
{_compared(c, columns)}
            }}
            for (int j = 0; j < {columns.out}; ++j) {{
                y[to + j] = best[j];
                where[to + j] = index[j];
            }}
        }}
    }}
}}
"""
