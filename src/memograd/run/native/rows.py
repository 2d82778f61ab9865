"""What goes along one dimension at a time, for all places of the others: argmax, softmax and its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.run.native.emit import Builder, kernel
from memograd.run.native.reduce import index_of_result, loop
from memograd.run.native.values import Value, View

aten = torch.ops.aten


def _at(x: View, dim: int, name: str) -> tuple[str, ...]:
    return tuple(name if d == dim else f"i{d}" for d in range(len(x.shape)))


def _rows(x: Value, dim: int, lines: list[str]) -> list[str]:
    return [loop(f"i{d}", n) for d, n in enumerate(x.shape) if d != dim] + ["{", *lines, "}"]


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
    place = out.ref(index_of_result(out, len(x.shape), {dim}))
    lines = ["long m = 0;", loop("r", x.shape[dim]), f"if ({better}) m = r;", f"{place} = m;"]
    b.add(_rows(source, dim, lines), {source.buffer}, out)
    return out


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
    row = loop("r", x.shape[dim])
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
    row = loop("r", out.shape[dim] if out.shape else 1)
    f = "f" if out.dtype == torch.float32 else ""
    if node.target is aten._softmax_backward_data.default:
        lines = [f"double s = 0; {row} s += (double){g.ref(at)} * {y.ref(at)};",
                 f"{row} {out.ref(at)} = {y.ref(at)} * ({g.ref(at)} - s);"]  # fmt: skip
    else:
        lines = [f"double s = 0; {row} s += {g.ref(at)};",
                 f"{row} {out.ref(at)} = {g.ref(at)} - __builtin_exp{f}({y.ref(at)}) * s;"]  # fmt: skip
    b.add(_rows(out, dim, lines), {g.buffer, y.buffer}, out, work=8 * out.numel)
    return out
