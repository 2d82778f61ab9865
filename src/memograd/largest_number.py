"""The largest absolute value among the numbers of many tensors on the CPU, in one pass over their memory.

Numbers without a sign are ordered as their bits are, and NaN is beyond infinity: what is looked for is the largest
whole number among the bits, many of which a processor compares at once. PyTorch's own way is a norm of each tensor,
and a number read from each: where tensors are small that takes several times as long.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from memograd import c_compiler
from memograd.errors import BackendError

Tensor = torch.Tensor
_MANY = 1 << 20  # numbers, from which PyTorch's threads are faster together than one alone

_SOURCE = """
#include <stdint.h>

#define LARGEST(NAME, TYPE, MASK)                                              \\
static TYPE NAME(const TYPE *restrict x, long count) {                         \\
    TYPE most = 0;                                                             \\
    for (long i = 0; i < count; ++i) {                                         \\
        TYPE size = x[i] & MASK;                                               \\
        most = size > most ? size : most;                                      \\
    }                                                                          \\
    return most;                                                               \\
}
LARGEST(of_two, int16_t, 0x7fff)
LARGEST(of_four, int32_t, 0x7fffffff)
LARGEST(of_eight, int64_t, 0x7fffffffffffffff)

int64_t memograd_largest(long bytes, void **p, const long *counts, long n) {
    int64_t most = 0;
    for (long k = 0; k < n; ++k) {
        int64_t one = bytes == 2 ? of_two(p[k], counts[k])
                    : bytes == 4 ? of_four(p[k], counts[k]) : of_eight(p[k], counts[k]);
        most = one > most ? one : most;
    }
    return most;
}
"""


def _read(bits_as: str, number_as: str, shift: int = 0) -> Callable[[int], float]:
    to_bits, to_number = struct.Struct(bits_as), struct.Struct(number_as)
    return lambda bits: to_number.unpack(to_bits.pack(bits << shift))[0]


# How many bytes a number has, how many of them an element is made of, and what its bits mean
_KINDS: dict[torch.dtype, tuple[int, int, Callable[[int], float]]] = {
    torch.float16: (2, 1, _read("H", "e")),
    torch.bfloat16: (2, 1, _read("I", "f", 16)),
    torch.float32: (4, 1, _read("I", "f")),
    torch.float64: (8, 1, _read("Q", "d")),
    torch.complex64: (4, 2, _read("I", "f")),
    torch.complex128: (8, 2, _read("Q", "d")),
}


@cache
def _function() -> Any:
    """None where there is no C compiler."""
    try:
        function = c_compiler.load(_SOURCE).memograd_largest
    except BackendError:
        return None
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return function


def largest_number(values: Sequence[Tensor]) -> float:
    """The largest absolute value in ``values``, or an upper bound that is finite if it is; NaN where one is NaN."""
    function = _function()
    copies: list[Tensor] = []  # alive until they are read
    by_dtype: dict[torch.dtype, tuple[list[int], list[int]]] = {}
    for value in values:
        if value.layout is not torch.strided or value.dtype not in _KINDS or not value.is_contiguous():
            value = _in_one_piece(value)
            copies.append(value)
        pointers, counts = by_dtype.setdefault(value.dtype, ([], []))
        pointers.append(value.data_ptr())
        counts.append(value.numel())
    if function is None or (sum([sum(c) for _, c in by_dtype.values()]) > _MANY and torch.get_num_threads() > 1):
        return _by_norms(values)
    most = 0.0
    for dtype, (pointers, counts) in by_dtype.items():
        size, parts, number = _KINDS[dtype]
        n = len(pointers)
        lengths = counts if parts == 1 else [parts * c for c in counts]
        largest = number(function(size, (ctypes.c_void_p * n)(*pointers), (ctypes.c_long * n)(*lengths), n))
        most = largest if math.isnan(largest) or largest > most else most
    return most


def _in_one_piece(value: Tensor) -> Tensor:
    """The numbers of ``value`` in memory without gaps, in any order; copied only where there are gaps."""
    if value.layout is not torch.strided:
        value = value.coalesce().values() if value.is_sparse else value.to_dense()
    if value.dtype not in _KINDS:
        value = value.float()
    order = sorted(range(value.dim()), key=value.stride, reverse=True)
    return value.permute(order).contiguous()


def _by_norms(values: Sequence[Tensor]) -> float:
    """By their lengths, an upper bound of the largest; exactly where the squares overflow. (Infinity norms take ten
    times as long.)"""
    dense = [v if v.layout is torch.strided else _in_one_piece(v) for v in values]
    numbers = [torch.view_as_real(v.resolve_conj()) if v.is_complex() else v for v in dense if v.numel()]
    total = 0.0
    for norm in torch._foreach_norm(numbers) if numbers else ():  # pyright: ignore[reportPrivateImportUsage]
        total += norm.item()
    if math.isfinite(total):
        return total
    sizes = [max(-low.item(), high.item()) for low, high in map(torch.aminmax, numbers)]
    return max(sizes, default=0.0, key=lambda size: math.inf if math.isnan(size) else size)
