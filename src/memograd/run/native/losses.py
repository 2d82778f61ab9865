"""Losses: a formula for each element, and the mean or the sum of them; a negative log likelihood of classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.run.native.emit import Builder, kernel
from memograd.run.native.indexing import within
from memograd.run.native.pointwise import pointwise
from memograd.run.native.reduce import loop, reduce
from memograd.run.native.values import Lazy, Value, View, formula

aten = torch.ops.aten

MEAN, SUM = 1, 2  # the reductions of losses as ATen numbers them; 0 is none


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
    lines = ["double s = 0, v = 0;", f"{loop('n', rows)} {{ const long long t = {label};"]
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
    lines = [f"for (long i = 0; i < {out.numel}; ++i) {out.ref('i')} = 0;", f"{loop('n', rows)} {{",
             f"const long long t = {y.ref(('n',) if y.shape else ())};",
             f"if (t != {ignore} && t >= 0 && t < {classes}) {there} = -({w} * {g}){scale};", "}"]  # fmt: skip
    b.add(["{", *lines, "}"], reads, out)
    return out
