"""Operators that move or multiply: views, constants, copies, indexing, matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.errors import BackendError
from memograd.run.native import products
from memograd.run.native.emit import MATMUL_LIMIT, Builder, kernel
from memograd.run.native.pointwise import pointwise
from memograd.run.native.values import (
    C_TYPES,
    FLOATS,
    Body,
    Const,
    Indexed,
    Lazy,
    Value,
    View,
    cast,
    contiguous_strides,
    loops,
)

aten = torch.ops.aten
TILED = 1 << 13  # multiply-adds from which a product is made of tiles

# ---- views: torch itself, on a tensor without data, says what strides and offset come out

VIEWS = [
    aten.t.default, aten.transpose.int, aten.permute.default, aten.expand.default, aten.squeeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.select.int, aten.slice.Tensor,
    aten.diagonal.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.unfold.default,
    aten.view.default, aten._unsafe_view.default, aten.reshape.default,
]  # fmt: skip
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}


@kernel(*VIEWS)
def view(b: Builder, node: fx.Node, x: Value, *args: Any, **kwargs: Any) -> Any:
    meta = node.meta["val"]
    if isinstance(x, Const):
        if isinstance(meta, torch.Tensor):
            return Const(tuple(meta.shape), x.dtype, x.number)
        return [Const(tuple(m.shape), x.dtype, x.number) for m in meta]
    if x.numel == 1 and isinstance(x, Lazy) and isinstance(meta, torch.Tensor):
        return Lazy(tuple(meta.shape), x.dtype, (x,), lambda a: a)
    if node.target not in RESHAPES:
        return view_as(b.view(x), node.target, *args, **kwargs)
    try:
        return view_as(b.view(x), aten.view.default, *args)
    except RuntimeError:  # these strides have no such view
        return view_as(b.dense(x), aten.view.default, *args)


def view_as(x: View, target: Any, *args: Any, **kwargs: Any) -> Any:
    """The view operator ``target`` on strides and offset alone."""
    memory = torch.empty(x.buffer.numel, dtype=x.dtype, device="meta")
    view = target(torch.as_strided(memory, x.shape, x.strides, x.offset), *args, **kwargs)

    def back(y: torch.Tensor) -> View:
        return View(tuple(y.shape), x.dtype, x.buffer, int(y.storage_offset()), tuple(y.stride()))

    return back(view) if isinstance(view, torch.Tensor) else [back(y) for y in view]


@kernel(aten.detach.default, aten.alias.default, aten.clone.default, aten.contiguous.default, aten.lift_fresh.default,
        aten.lift_fresh_copy.default, ops.stop, ops.no_grad, ops.opaque)  # fmt: skip
def identity(b: Builder, node: fx.Node, x: Value, *_: Any, **__: Any) -> Value:
    return x  # nothing writes in place, so a copy is the thing itself


@kernel(ops.overwrite, ops.written)
def overwrite(b: Builder, node: fx.Node, old: Value, new: Value) -> Value:
    return new


@kernel(aten._to_copy.default, aten.to.dtype)
def to_copy(b: Builder, node: fx.Node, x: Value, *_: Any, **__: Any) -> Value:
    dtype = node.meta["val"].dtype
    if isinstance(x, Const):
        return Const(x.shape, dtype, float(x.number) if dtype in FLOATS else x.number)
    if dtype == torch.float32 and (single := _single_under_root(node)) is not None:
        return pointwise(b, node, "@sqrt({a})", b.values[single])
    return x if dtype == x.dtype else pointwise(b, node, "{a}", x)


def _single_under_root(node: fx.Node) -> fx.Node | None:
    """What a root in double precision is taken of, where that was single and becomes it again. Rounded twice, the root
    is what it is rounded once, since 53 digits are more than twice 24 and one."""
    root: Any = node.args[0]
    wide: Any = root.args[0] if root.target is aten.sqrt.default else None
    if (
        not isinstance(wide, fx.Node)
        or wide.target is not aten._to_copy.default
        or root.meta["val"].dtype != torch.float64
    ):
        return None
    source: Any = wide.args[0]
    return source if source.meta["val"].dtype == torch.float32 else None


@kernel(aten.copy.default, aten.expand_copy.default)
def copy(b: Builder, node: fx.Node, x: Value, source: Value, *_: Any) -> Value:
    return pointwise(b, node, "{a}", source)


# ---- constants


@kernel(aten.full.default, aten.full_like.default, aten.fill.Scalar, aten.new_full.default)
def full(b: Builder, node: fx.Node, _: Any, *rest: Any, **__: Any) -> Const:
    value = node.meta["val"]
    return Const(tuple(value.shape), value.dtype, rest[-1])


@kernel(aten.fill.Tensor)
def fill(b: Builder, node: fx.Node, x: Value, number: Value) -> Value:
    return pointwise(b, node, "{a}", number)


@kernel(aten.scalar_tensor.default)
def scalar_tensor(b: Builder, node: fx.Node, number: Any, **_: Any) -> Const:
    return Const((), node.meta["val"].dtype, number)


@kernel(aten.ones_like.default, aten.ones.default, aten.new_ones.default)
def ones(b: Builder, node: fx.Node, *_: Any, **__: Any) -> Const:
    return Const(tuple(node.meta["val"].shape), node.meta["val"].dtype, 1)


@kernel(aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default, aten.empty_like.default)
def zeros(b: Builder, node: fx.Node, *_: Any, **__: Any) -> Const:
    return Const(tuple(node.meta["val"].shape), node.meta["val"].dtype, 0)


@kernel(aten.arange.default, aten.arange.start, aten.arange.start_step)
def arange(b: Builder, node: fx.Node, *args: Any, **_: Any) -> Indexed:
    value = node.meta["val"]
    start, step = (args[0] if len(args) > 1 else 0), (args[2] if len(args) > 2 else 1)
    c = C_TYPES[value.dtype]
    return Indexed(tuple(value.shape), value.dtype, lambda body, i: f"({c}){start} + ({c}){step} * ({c}){i[0]}")


# ---- putting together, taking apart


@kernel(aten.cat.default)
def cat(b: Builder, node: fx.Node, parts: Sequence[Value], dim: int = 0) -> View:
    target, start = b.result(node), 0
    for part in parts:
        if len(part.shape) == len(target.shape):  # torch lets an empty vector pass for anything
            stop = start + part.shape[dim]
            b.assign(view_as(target, aten.slice.Tensor, dim, start, stop), converted(part, target.dtype))
            start = stop
    return target


@kernel(aten.stack.default)
def stack(b: Builder, node: fx.Node, parts: Sequence[Value], dim: int = 0) -> View:
    target = b.result(node)
    for number, part in enumerate(parts):
        b.assign(view_as(target, aten.select.int, dim, number), converted(part, target.dtype))
    return target


@kernel(aten.slice_backward.default, aten.select_backward.default)
def view_backward(b: Builder, node: fx.Node, grad: Value, sizes: Any, *args: Any) -> View:
    operator = aten.slice.Tensor if node.target is aten.slice_backward.default else aten.select.int
    target = b.result(node)
    b.assign(target, Const(target.shape, target.dtype, 0))
    b.assign(view_as(target, operator, *args), grad)
    return target


@kernel(aten.slice_scatter.default, aten.select_scatter.default)
def scatter_view(b: Builder, node: fx.Node, x: Value, source: Value, *args: Any) -> View:
    operator = aten.slice.Tensor if node.target is aten.slice_scatter.default else aten.select.int
    target = b.result(node)
    b.assign(target, x)
    b.assign(view_as(target, operator, *args), converted(source, target.dtype))
    return target


def converted(value: Value, dtype: torch.dtype) -> Value:
    """``value`` in another dtype."""
    if value.dtype == dtype:
        return value
    return Lazy(value.shape, dtype, (value,), lambda a: cast(a, value.dtype, dtype))


# ---- matrix products


@kernel(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def mm(b: Builder, node: fx.Node, x: Value, y: Value) -> View:
    return product(b, node, x, y, None, 0, 1)


@kernel(aten.addmm.default, aten.baddbmm.default, aten.addmv.default)
def addmm(b: Builder, node: fx.Node, bias: Value, x: Value, y: Value, beta: Any = 1, alpha: Any = 1) -> View:
    return product(b, node, x, y, bias if beta != 0 else None, beta, alpha)


def product(b: Builder, node: fx.Node, x: Value, y: Value, bias: Value | None, beta: Any, alpha: Any) -> View:
    """alpha·x·y + beta·bias, with a batch dimension or without. Sums of small products are carried in double."""
    out, left, right = b.result(node), b.view(x), b.view(y)
    if len(left.shape) == 1:
        left = view_as(left, aten.unsqueeze.default, 0)
    if len(right.shape) == 1:
        right = view_as(right, aten.unsqueeze.default, 1)
    *batch, m, k = left.shape
    n = right.shape[-1]
    work = m * n * k * (batch[0] if batch else 1)
    _check_product(node, out.dtype, work)
    if bias is not None and not isinstance(bias, (View, Const)):
        bias = b.store(bias)
    whole = tuple([*batch, m, n])
    target = View(whole, out.dtype, out.buffer, 0, contiguous_strides(whole))
    body = Body()

    def finish(i: tuple[str, ...], total: str) -> str:
        text = total if alpha == 1 else f"{alpha!r} * {total}"
        if bias is not None:
            shape = bias.shape
            at = tuple("0" if s == 1 else name for s, name in zip(shape, _result_index(i, node, shape), strict=True))
            scale = "" if beta == 1 else f"{beta!r} * "
            text += f" + {scale}{bias.at(body, at)}"
        return f"{target.ref(i)} = {text};"

    if work >= TILED and n >= 4 and m >= 2 and k:
        return _by_tiles(b, left, right, out, target, None if alpha == 1 and bias is None else finish, body)
    along = left.strides[-1] == 1 and right.strides[-2] == 1
    write = _by_dot if along or n < 4 else _by_rows
    if write is _by_rows and right.strides[-1] != 1 and m > 1:
        right = b.dense(right)
    lines = write(left, right, m, n, k, ["p"] if batch else [], finish)
    lines = loops(batch, ["p"] if batch else [], lines)
    b.add(lines, body.reads | {left.buffer, right.buffer}, target, work=work)
    return out


def _by_tiles(b: Builder, x: View, y: View, out: View, target: View, finish: Any, body: Body) -> View:
    """The product, and behind it a pass over it for what is scaled or added."""
    *batch, _, n = target.shape
    names = ["p", "i", "j"][-len(target.shape) :]
    begin = f"{target.buffer.name} + p*{target.strides[0]}L" if batch else target.buffer.name
    lines = [products.call(products.matrix(x), products.matrix(y), begin, target.dtype)]
    if finish is not None:
        lines += loops(target.shape[-2:], names[-2:], [finish(tuple(names), target.ref(tuple(names)))])
    b.helpers[products.name(target.dtype)] = products.helper(target.dtype)
    b.add(loops(batch, names[: len(batch)], lines), body.reads | {x.buffer, y.buffer}, target, work=x.numel * n)
    return out


def _result_index(i: tuple[str, ...], node: fx.Node, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The index of a bias of ``shape``; a matrix-vector product has no column."""
    i = i[:-1] if len(node.meta["val"].shape) == 1 else i
    return i[len(i) - len(shape) :]


def _by_dot(x: View, y: View, m: int, n: int, k: int, p: list[str], finish: Any) -> list[str]:
    term = f"total += (double){x.ref((*p, 'i', 'k'))} * (double){y.ref((*p, 'k', 'j'))};"
    simd = ["#pragma omp simd reduction(+:total)"] if k >= 16 else []
    inner = ["double total = 0;", *simd, f"for (long k = 0; k < {k}; ++k)", term, finish((*p, "i", "j"), "total")]
    return loops((m, n), ("i", "j"), inner)


def _by_rows(x: View, y: View, m: int, n: int, k: int, p: list[str], finish: Any) -> list[str]:
    """Rows of the result as sums of rows of ``y``: the inner loop runs along memory."""
    tile = min(n, 256)
    width = str(n) if n <= tile else f"({n} - j0 < {tile} ? {n} - j0 : {tile})"
    inner = [
        f"double total[{tile}] = {{0}};", f"const long w = {width};",
        f"for (long k = 0; k < {k}; ++k) {{ const double left = {x.ref((*p, 'i', 'k'))};",
        f"for (long j = 0; j < w; ++j) total[j] += left * (double){y.ref((*p, 'k', '(j0 + j)'))}; }}",
        f"for (long j = 0; j < w; ++j) {{ {finish((*p, 'i', '(j0 + j)'), 'total[j]')} }}",
    ]  # fmt: skip
    return [f"for (long i = 0; i < {m}; ++i) for (long j0 = 0; j0 < {n}; j0 += {tile}) {{", *inner, "}"]


def _check_product(node: fx.Node, dtype: torch.dtype, work: int) -> None:
    if dtype not in FLOATS:
        raise BackendError(f"the native backend multiplies matrices of floating-point numbers only, not {dtype}")
    if work > MATMUL_LIMIT:
        raise BackendError(
            f"{node.name} ({node.target}) is a matrix product with {work} multiply-adds; from {MATMUL_LIMIT} on "
            "PyTorch's own (BLAS) is faster than the native backend"
        )
