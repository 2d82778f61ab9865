"""Reductions, and the operators made of one: softmax, the losses, LayerNorm. Sums are carried in double."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.finite import largest
from memograd.run.native.emit import Builder, kernel
from memograd.run.native.indexing import within
from memograd.run.native.pointwise import pointwise
from memograd.run.native.values import FLOATS, Body, Lazy, Value, View, cast, formula

aten = torch.ops.aten

MEAN, SUM = 1, 2  # the reductions of losses as ATen numbers them; 0 is none

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
    lines = [_for(*i) for i in outer] + ["{", f"{carrier} A = {start};"]
    lines += [_for(*i) for i in inner[:-1]] + simd + [_for(*i) for i in inner[-1:]]
    lines += ["{", *body.lines, f"const {carrier} x = {element};", step, "}"]
    place = target.ref(_kept(target, rank, reduced)) if outer else f"{target.buffer.name}[0]"
    text = "A" if scale is None else f"A * {scale!r}"
    text = text if target.dtype != torch.bool else "A != 0"
    lines += [f"{place} = {text};", "}"]
    b.add(lines, body.reads, target, work=x.numel)
    return target


def _for(name: str, length: int) -> str:
    return f"for (long {name} = 0; {name} < {length}; ++{name})"


def _kept(target: View, rank: int, reduced: set[int]) -> tuple[str, ...]:
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
        lines += [*(_for(*i) for i in around), "{", *inner, "}"]
        reads |= body.reads
    b.add([*lines, f"{out.buffer.name}[0] = L;"], reads, out, work=sum(x.numel for x in values))
    return out


@kernel(aten.argmax.default, aten.argmin.default)
def argmax(b: Builder, node: fx.Node, x: Value, dim: int | None = None, keepdim: bool = False) -> View:
    source, out = b.view(x), b.result(node)
    if dim is None and len(x.shape) != 1:
        raise BackendError(f"the native backend computes {node.target} along one dimension only")
    sign = ">" if node.target is aten.argmax.default else "<"
    dim = (dim or 0) % max(len(x.shape), 1)
    here = source.ref(_at(source, dim, "r"))
    best = source.ref(_at(source, dim, "m"))
    better = f"{best} == {best} && ({here} {sign} {best} || {here} != {here})"  # the first of equals; NaN wins
    place = out.ref(_kept(out, len(x.shape), {dim}))
    lines = ["long m = 0;", _for("r", x.shape[dim]), f"if ({better}) m = r;", f"{place} = m;"]
    b.add(_rows(source, dim, lines), {source.buffer}, out)
    return out


# ---- rows: everything along one dimension, for all places of the others


def _at(x: View, dim: int, name: str) -> tuple[str, ...]:
    return tuple(name if d == dim else f"i{d}" for d in range(len(x.shape)))


def _rows(x: Value, dim: int, lines: list[str]) -> list[str]:
    return [_for(f"i{d}", n) for d, n in enumerate(x.shape) if d != dim] + ["{", *lines, "}"]


@kernel(aten._softmax.default, aten._log_softmax.default)
def softmax(b: Builder, node: fx.Node, x: Value, dim: int, half: bool) -> View:
    source, out = b.view(x), b.result(node)
    if not x.shape:
        b.assign(
            out, b.lazy((), out.dtype, None, lambda a: f"{a} - {a} + {int(node.target is aten._softmax.default)}", x)
        )
        return out
    dim %= len(x.shape)
    here, there = source.ref(_at(source, dim, "r")), out.ref(_at(out, dim, "r"))
    row = _for("r", x.shape[dim])
    f = "f" if out.dtype == torch.float32 else ""
    lines = ["double m = -__builtin_inf(), s = 0;", f"{row} if (!({here} <= m)) m = {here};"]
    if node.target is aten._softmax.default:
        lines += [f"{row} s += ({there} = __builtin_exp{f}({here} - m));", f"s = 1 / s; {row} {there} *= s;"]
    else:
        lines += [
            f"{row} s += __builtin_exp{f}({here} - m);",
            f"s = __builtin_log(s); {row} {there} = ({here} - m) - s;",
        ]
    b.add(_rows(source, dim, lines), {source.buffer}, out, work=8 * x.numel)
    return out


@kernel(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default)
def softmax_backward(b: Builder, node: fx.Node, grad: Value, y: Value, dim: int, dtype: Any) -> View:
    g, y, out = b.view(grad), b.view(y), b.result(node)
    dim %= max(len(out.shape), 1)
    at = _at(out, dim, "r")
    row = _for("r", out.shape[dim] if out.shape else 1)
    f = "f" if out.dtype == torch.float32 else ""
    if node.target is aten._softmax_backward_data.default:
        lines = [f"double s = 0; {row} s += (double){g.ref(at)} * {y.ref(at)};",
                 f"{row} {out.ref(at)} = {y.ref(at)} * ({g.ref(at)} - s);"]  # fmt: skip
    else:
        lines = [f"double s = 0; {row} s += {g.ref(at)};",
                 f"{row} {out.ref(at)} = {g.ref(at)} - __builtin_exp{f}({y.ref(at)}) * s;"]  # fmt: skip
    b.add(_rows(out, dim, lines), {g.buffer, y.buffer}, out, work=8 * out.numel)
    return out


# ---- losses


def loss(b: Builder, node: fx.Node, each: str, reduction: int, *operands: Value) -> Value:
    """The formula ``each``, reduced as a loss is."""
    x = operands[0]
    shape = torch.broadcast_shapes(*(o.shape for o in operands))
    terms = b.lazy(shape, x.dtype, x.dtype, formula(each, x.dtype), *operands)
    if reduction not in (MEAN, SUM):
        return terms
    scale = None if reduction == SUM else 1 / terms.numel if terms.numel else math.nan
    return reduce(b, b.result(node), terms, None, "sum", scale)


def loss_backward(b: Builder, node: fx.Node, each: str, reduction: int, *operands: Value) -> Lazy:
    """The formula ``each`` of the incoming adjoint and the operands, for a loss that was reduced."""
    shape = node.meta["val"].shape
    numel = math.prod(shape)
    text = f"({each}) * (T){1 / numel!r}" if reduction == MEAN and numel else each
    return pointwise(b, node, text, *operands)


@kernel(aten.mse_loss.default)
def mse_loss(b: Builder, node: fx.Node, x: Value, y: Value, reduction: int = MEAN) -> Value:
    return loss(b, node, "({a} - {b}) * ({a} - {b})", reduction, x, y)


@kernel(aten.mse_loss_backward.default)
def mse_loss_backward(b: Builder, node: fx.Node, grad: Value, x: Value, y: Value, reduction: int) -> Lazy:
    return loss_backward(b, node, "(T)2 * ({b} - {c}) * {a}", reduction, grad, x, y)


def _clamped(log: str) -> str:
    return f"({log} < -100 ? (T)-100 : {log})"


@kernel(aten.binary_cross_entropy.default)
def bce(b: Builder, node: fx.Node, x: Value, y: Value, weight: Any = None, reduction: int = MEAN) -> Value:
    text = f"({{b}} - (T)1) * {_clamped('@log1p(-{a})')} - {{b}} * {_clamped('@log({a})')}"
    return loss(b, node, text, reduction, x, y) if weight is None else loss(
        b, node, f"({text}) * {{c}}", reduction, x, y, weight)  # fmt: skip


@kernel(aten.binary_cross_entropy_backward.default)
def bce_backward(b: Builder, node: fx.Node, grad: Value, x: Value, y: Value, weight: Any = None,
                 reduction: int = MEAN) -> Lazy:  # fmt: skip
    variance = "((T)1 - {b}) * {b}"
    # PyTorch's bound is the float 1e-12, in double arithmetic too
    text = f"{{a}} * ({{b}} - {{c}}) / ({variance} < (T)1e-12f ? (T)1e-12f : {variance})"
    if weight is None:
        return loss_backward(b, node, text, reduction, grad, x, y)
    return loss_backward(b, node, text + " * {d}", reduction, grad, x, y, weight)


@kernel(aten.binary_cross_entropy_with_logits.default)
def bce_logits(b: Builder, node: fx.Node, x: Value, y: Value, weight: Any = None, pos_weight: Any = None,
               reduction: int = MEAN) -> Value:  # fmt: skip
    if weight is not None or pos_weight is not None:
        raise BackendError("the native backend computes binary_cross_entropy_with_logits without weights only")
    text = "((T)1 - {b}) * {a} + @log1p(@exp(-@fabs({a}))) + ({a} < 0 ? -{a} : (T)0)"
    return loss(b, node, text, reduction, x, y)


@kernel(aten.nll_loss_forward.default)
def nll_loss(
    b: Builder, node: fx.Node, x: Value, y: Value, weight: Any, reduction: int, ignore: int
) -> tuple[View, View]:
    x, y = b.view(x), b.view(y)
    out, total = (b.new(tuple(v.shape), v.dtype) for v in node.meta["val"])
    classes, rows = x.shape[-1], 1 if len(x.shape) == 1 else x.shape[0]
    within(b, node, y, classes, besides=ignore)
    reads = {x.buffer, y.buffer}
    label, score = y.ref(("n",) if y.shape else ()), x.ref(("n", "t") if len(x.shape) == 2 else ("t",))
    w = "1"
    if weight is not None:
        weight = b.view(weight)
        w, reads = weight.ref(("t",)), reads | {weight.buffer}
    term = f"{w} * {score}"
    lines = ["double s = 0, v = 0;", f"{_for('n', rows)} {{ const long long t = {label};"]
    none = reduction not in (MEAN, SUM)
    skip = f"{out.ref(('n',) if out.shape else ())} = 0; " if none else ""
    lines += [f"if (t == {ignore} || t < 0 || t >= {classes}) {{ {skip}continue; }}", f"v += {w}; s -= {term};"]
    lines += [f"{out.ref(('n',) if out.shape else ())} = -({term});" if none else "", "}"]
    lines += [] if none else [f"{out.ref('0')} = s{' / v' if reduction == MEAN else ''};"]
    b.add(["{", *lines, f"{total.ref('0')} = {'0' if none else 'v'};", "}"], reads, out, total)
    return out, total


@kernel(aten.nll_loss_backward.default)
def nll_loss_backward(b: Builder, node: fx.Node, grad: Value, x: Value, y: Value, weight: Any, reduction: int,
                      ignore: int, total: Value) -> View:  # fmt: skip
    out, grad, y, total = b.result(node), b.view(grad), b.view(y), b.view(total)
    classes, rows = out.shape[-1], 1 if len(out.shape) == 1 else out.shape[0]
    reads = {grad.buffer, y.buffer, total.buffer}
    w = "1"
    if weight is not None:
        weight = b.view(weight)
        w, reads = weight.ref(("t",)), reads | {weight.buffer}
    g = grad.ref(("n",) if grad.shape else ())
    scale = f" / {total.ref(('0',) * len(total.shape))}" if reduction == MEAN else ""
    there = out.ref(("n", "t") if len(out.shape) == 2 else ("t",))
    lines = [f"for (long i = 0; i < {out.numel}; ++i) {out.ref('i')} = 0;", f"{_for('n', rows)} {{",
             f"const long long t = {y.ref(('n',) if y.shape else ())};",
             f"if (t != {ignore} && t >= 0 && t < {classes}) {there} = -({w} * {g}){scale};", "}"]  # fmt: skip
    b.add(["{", *lines, "}"], reads, out)
    return out
