"""Reductions: sums, products, extrema, means and norms. Sums are carried in double."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.finite import largest
from memograd.run.native.emit import Builder, kernel
from memograd.run.native.pointwise import pointwise
from memograd.run.native.values import FLOATS, Body, Lazy, Value, View, cast, formula

aten = torch.ops.aten

_WIDE = 8  # elements of a row from which sums over rows are carried for all of them at once

# start, step, in terms of the accumulator A and the element x; NaN wins in max and min
STEPS = {
    "sum": ("0", "A += x;"),
    "prod": ("1", "A *= x;"),
    "max": ("-__builtin_inf()", "if (A == A && !(x <= A)) A = x;"),
    "min": ("__builtin_inf()", "if (A == A && !(x >= A)) A = x;"),
    "any": ("0", "A = A || x != 0;"),
    "all": ("1", "A = A && x != 0;"),
}


def reduce(
    b: Builder, target: View, x: Value, dims: Sequence[int] | None, kind: str, scale: float | None = None
) -> View:
    """``target`` = the reduction of ``x`` over ``dims`` (all, if none are given), times ``scale``."""
    rank = len(x.shape)
    reduced = {d % max(rank, 1) for d in dims} if dims else set(range(rank))
    if kind == "sum" and x.dtype in FLOATS and reduced and rank - 1 not in reduced and x.shape[-1] >= _WIDE:
        return _sum_of_rows(b, target, x, reduced, scale)
    carrier = "double" if x.dtype in FLOATS else "long long"
    start, step = STEPS[kind]
    if carrier == "long long" and "inf" in start:
        start = "(-9223372036854775807LL - 1)" if kind == "max" else "9223372036854775807LL"
    body = Body()
    flat = len(reduced) == rank and x.runs_over(x.shape)
    index: Any = "i" if flat else tuple(f"i{d}" for d in range(rank))
    element = x.at(body, index)
    inner = [("i", x.numel)] if flat else [(f"i{d}", x.shape[d]) for d in sorted(reduced)]
    outer = [(f"i{d}", x.shape[d]) for d in range(rank) if d not in reduced]
    # the accumulator is local to one result, so the order of its sum may be left to the vectorizer
    simd = ["#pragma omp simd reduction(+:A)"] if kind == "sum" and inner and inner[-1][1] >= 16 else []
    lines = [loop(*i) for i in outer] + ["{", f"{carrier} A = {start};"]
    lines += [loop(*i) for i in inner[:-1]] + simd + [loop(*i) for i in inner[-1:]]
    lines += ["{", *body.lines, f"const {carrier} x = {element};", step, "}"]
    place = target.ref(index_of_result(target, rank, reduced)) if outer else f"{target.buffer.name}[0]"
    text = "A" if scale is None else f"A * {scale!r}"
    text = text if target.dtype != torch.bool else "A != 0"
    lines += [f"{place} = {text};", "}"]
    b.add(lines, body.reads, target, work=x.numel)
    return target


def _sum_of_rows(b: Builder, target: View, x: Value, reduced: set[int], scale: float | None) -> View:
    """A sum over other dimensions than the last, row by row: the inner loop runs along memory."""
    rank, width = len(x.shape), x.shape[-1]
    tile = min(width, 256)
    body = Body()
    element = x.at(body, (*(f"i{d}" for d in range(rank - 1)), "(j0 + j)"))
    lines = [loop(f"i{d}", x.shape[d]) for d in range(rank - 1) if d not in reduced]
    lines += [f"for (long j0 = 0; j0 < {width}; j0 += {tile}) {{", f"double total[{tile}] = {{0}};"]
    lines += [f"const long w = {width} - j0 < {tile} ? {width} - j0 : {tile};"]
    lines += [loop(f"i{d}", x.shape[d]) for d in sorted(reduced)]
    lines += ["for (long j = 0; j < w; ++j) {", *body.lines, f"total[j] += {element};", "}"]
    place = target.ref((*index_of_result(target, rank, reduced)[:-1], "(j0 + j)"))
    text = "total[j]" if scale is None else f"total[j] * {scale!r}"
    lines += [f"for (long j = 0; j < w; ++j) {place} = {text};", "}"]
    b.add(lines, body.reads, target, work=x.numel)
    return target


def loop(name: str, length: int) -> str:
    return f"for (long {name} = 0; {name} < {length}; ++{name})"


def index_of_result(target: View, rank: int, reduced: set[int]) -> tuple[str, ...]:
    """The index of the result: with reduced dimensions of length 1, or without them."""
    if len(target.shape) == rank:
        return tuple("0" if d in reduced else f"i{d}" for d in range(rank))
    return tuple(f"i{d}" for d in range(rank) if d not in reduced)


def _reducer(kind: str) -> Any:
    def emit(b: Builder, node: fx.Node, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> View:
        dims = [dims] if isinstance(dims, int) else dims
        dtype = node.meta["val"].dtype
        if kind in ("sum", "prod") and x.dtype != dtype:
            x = b.lazy(x.shape, dtype, None, lambda a, source=x.dtype: cast(a, source, dtype), x)
        return reduce(b, b.result(node), x, dims, kind)

    return emit


kernel(aten.sum.default, aten.sum.dim_IntList)(_reducer("sum"))
kernel(aten.prod.default, aten.prod.dim_int)(_reducer("prod"))
kernel(aten.amax.default, aten.max.default)(_reducer("max"))
kernel(aten.amin.default, aten.min.default)(_reducer("min"))
kernel(aten.any.default, aten.any.dim, aten.any.dims)(_reducer("any"))
kernel(aten.all.default, aten.all.dim, aten.all.dims)(_reducer("all"))


@kernel(aten.mean.default, aten.mean.dim)
def mean(b: Builder, node: fx.Node, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> View:
    out = b.result(node)
    return reduce(b, out, x, dims, "sum", out.numel / x.numel if x.numel else math.nan)


_SIZE = "({a} < 0 ? -{a} : {a} + (T)0)"
# by the order of a norm: what is reduced, how, and what is done to the result
NORMS = {
    0: ("(T)({a} != 0)", "sum", "{a} + (T)0"),
    1: (_SIZE, "sum", "{a} + (T)0"),
    2: ("{a} * {a}", "sum", "@sqrt({a})"),
    math.inf: (_SIZE, "max", "{a} + (T)0"),
    -math.inf: (_SIZE, "min", "{a} + (T)0"),
}


@kernel(aten.linalg_vector_norm.default)
def vector_norm(b: Builder, node: fx.Node, x: Value, order: float = 2, dims: Any = None, keepdim: bool = False,
                dtype: Any = None) -> Lazy:  # fmt: skip
    if dtype not in (None, x.dtype) or x.dtype not in FLOATS:
        raise BackendError(f"the native backend computes {node.target} in the precision of its operand only")
    power = (f"@pow({_SIZE}, (T){order!r})", "sum", f"@pow({{a}}, (T){1 / (order or 1)!r})")
    each, kind, behind = NORMS.get(order, power)
    terms = b.lazy(x.shape, x.dtype, x.dtype, formula(each, x.dtype), x)
    sums = b.new(tuple(node.meta["val"].shape), x.dtype)
    return pointwise(b, node, behind, reduce(b, sums, terms, dims, kind))


@kernel(largest)
def largest_of_all(b: Builder, node: fx.Node, values: Sequence[Value]) -> View:
    """The largest size in all of ``values``, NaN where one is; each of them is read once, where it lies."""
    out = b.result(node)
    lines, reads = ["double L = 0;"], set()
    for x in values:
        body = Body()
        flat = x.runs_over(x.shape)
        index: Any = "i" if flat else tuple(f"i{d}" for d in range(len(x.shape)))
        element = x.at(body, index)
        around = [("i", x.numel)] if flat else [(f"i{d}", n) for d, n in enumerate(x.shape)]
        inner = [*body.lines, f"const double x = {element};", "if (L == L && !(x <= L && -x <= L)) L = x < 0 ? -x : x;"]
        lines += [*(loop(*i) for i in around), "{", *inner, "}"]
        reads |= body.reads
    b.add([*lines, f"{out.buffer.name}[0] = L;"], reads, out, work=sum(x.numel for x in values))
    return out
