"""LayerNorm, variance and the gradient of an embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd.run.native.emit import Builder, kernel
from memograd.run.native.kernels import view_as
from memograd.run.native.values import Value, View, loops

aten = torch.ops.aten


def _folded(x: View, rows: int, width: int) -> View:
    return view_as(x, aten.view.default, [rows, width])


@kernel(aten.native_layer_norm.default)
def layer_norm(
    b: Builder, node: fx.Node, x: Value, normalized: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[View, View, View]:
    width = math.prod(normalized)
    rows = x.numel // width if width else 0
    out, mean, rstd = (b.new(tuple(v.shape), v.dtype) for v in node.meta["val"])
    source = _folded(b.dense(x), rows, width)
    gain, shift = (None if v is None else b.dense(v) for v in (weight, bias))
    here = source.ref(("i", "k"))
    text = f"({here} - m) * r" + (f" * {gain.ref('k')}" if gain else "") + (f" + {shift.ref('k')}" if shift else "")
    row = f"for (long k = 0; k < {width}; ++k)"
    lines = [
        f"double m = 0, v = 0; {row} m += {here};",
        f"m /= {width}; {row} v += ({here} - m) * ({here} - m);",
        f"const double r = 1 / __builtin_sqrt(v / {width} + {eps!r});",
        f"{mean.ref('i')} = m; {rstd.ref('i')} = r;",
        f"{row} {_folded(out, rows, width).ref(('i', 'k'))} = {text};",
    ]
    reads = {v.buffer for v in (source, gain, shift) if v is not None}
    b.add(loops([rows], ["i"], lines), reads, out, mean, rstd, work=4 * out.numel)
    return out, mean, rstd


@kernel(aten.embedding_dense_backward.default)
def embedding_backward(
    b: Builder, node: fx.Node, grad: Value, index: Value, count: int, padding: int, by_freq: bool
) -> View:
    out, where = b.result(node), b.dense(index)
    width = out.shape[1]
    source = _folded(b.dense(grad), where.numel, width)
    word, there = f"const long long t = {where.ref('i')};", f"if (t != {padding} && t >= 0 && t < {count})"
    lines, targets, share = [f"for (long i = 0; i < {out.numel}; ++i) {out.ref('i')} = 0;"], [out], ""
    if by_freq:  # each word's gradient is the mean over the places it stands at
        often = b.new((count,), torch.int64)
        lines += [f"for (long i = 0; i < {count}; ++i) {often.ref('i')} = 0;"]
        lines += loops([where.numel], ["i"], [word, f"{there} {often.ref('t')} += 1;"])
        targets, share = [out, often], f" / {often.ref('t')}"
    lines += loops([where.numel], ["i"], [
        word,
        f"{there} for (long k = 0; k < {width}; ++k)",
        f"{out.ref(('t', 'k'))} += {source.ref(('i', 'k'))}{share};",
    ])  # fmt: skip
    b.add(["{", *lines, "}"], {where.buffer, source.buffer}, *targets)
    return out


@kernel(aten.var.correction)
def variance(
    b: Builder, node: fx.Node, x: Value, dims: Any = None, *, correction: Any = None, keepdim: bool = False
) -> View:
    source, out, rank = b.view(x), b.result(node), len(x.shape)
    reduced = {d % rank for d in dims} if dims else set(range(rank))
    names = [f"i{d}" for d in range(rank)]
    at = tuple(("0" if d in reduced else names[d]) for d in range(rank) if len(out.shape) == rank or d not in reduced)
    row = " ".join(f"for (long i{d} = 0; i{d} < {x.shape[d]}; ++i{d})" for d in sorted(reduced))
    count = math.prod(x.shape[d] for d in reduced)
    here = source.ref(tuple(names))
    divisor = max(0, count - (1 if correction is None else correction))
    lines = [
        f"double m = 0, v = 0; {row} m += {here};",
        f"m /= {count}.0; {row} v += ({here} - m) * ({here} - m);",
        f"{out.ref(at)} = v / (double){divisor};",
    ]
    remaining = [d for d in range(rank) if d not in reduced]
    over = loops([x.shape[d] for d in remaining], [f"i{d}" for d in remaining], lines)
    b.add(over, {source.buffer}, out, work=2 * x.numel)
    return out
