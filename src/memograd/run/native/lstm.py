"""A layer of an LSTM in single precision: forward, and backpropagation through time.

    i, f, o = σ(...), g = tanh(...) of x_t W_ih' + h_{t-1} W_hh' + b,    c_t = f c_{t-1} + i g,    h_t = o tanh c_t

What does not wait for the step before is one product over all steps: x W_ih' on the way there, the adjoints of the
weights and of x on the way back. The activated gates, c and tanh c stay in the arena in between, where PyTorch's layer
has its workspace.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.lstm_layer import LSTM_MODE, lstm_layer_backward
from memograd.run.native import products
from memograd.run.native.curves import CURVES
from memograd.run.native.emit import WORKSPACES, Builder, kernel
from memograd.run.native.kernels import view_as
from memograd.run.native.products import Matrix, matrix
from memograd.run.native.reduce import reduce
from memograd.run.native.values import Value, View

aten = torch.ops.aten
_WORKSPACE = 3  # which result of the layer
_LIMIT = 1 << 30  # multiply-adds of a layer
WORKSPACES[aten.mkldnn_rnn_layer.default] = (_WORKSPACE, lstm_layer_backward)


@dataclass(frozen=True)
class Workspace:
    """What the way back needs: activated gates [time, batch, 4 hidden], c and tanh c [time, batch, hidden]."""

    gates: View
    cells: View
    squashed: View


@dataclass(frozen=True)
class Sizes:
    """Of a layer; ``reverse``: it reads from the last step to the first."""

    time: int
    batch: int
    inputs: int
    hidden: int
    reverse: bool

    @property
    def state(self) -> int:
        return self.batch * self.hidden

    def step(self, order: str) -> list[str]:
        """C: the head of the loop over steps ``s``; ``t`` is where a step lies in memory."""
        there = f"{self.time - 1} - s" if self.reverse else "s"
        return [f"{order} {{", f"const long t = {there};"]

    def before(self, steps: View, first: View) -> str:
        """C: where the state before step ``s`` is."""
        earlier = "t + 1" if self.reverse else "t - 1"
        return f"s ? {_begin(steps)} + ({earlier}) * {self.state}L : {_begin(first)}"

    def part(self, steps: View, width: int) -> str:
        """C: where step ``t`` of ``steps`` is."""
        return f"{_begin(steps)} + t * {self.batch * width}L"


def _begin(x: View) -> str:
    return f"{x.buffer.name} + {x.offset}L"


def _rows(x: View, width: int) -> Matrix:
    """Contiguous memory as rows of this width."""
    return Matrix(_begin(x), x.numel // width, width, (width, 1))


@kernel(aten.mkldnn_rnn_layer.default)
def lstm_layer(
    b: Builder, node: fx.Node, x: Value, w_ih: Value, w_hh: Value, b_ih: Value, b_hh: Value, h: Value, c: Value,
    reverse: bool, lengths: Any, mode: int, hidden: int, layers: int, biases: bool, *_: Any,
) -> tuple[View, View, View, Workspace]:  # fmt: skip
    n = Sizes(*x.shape, hidden, reverse)  # pyright: ignore[reportCallIssue]
    work = n.time * n.batch * (n.inputs + hidden) * 4 * hidden
    if x.dtype != torch.float32 or lengths or mode != LSTM_MODE or not 0 < work <= _LIMIT:
        raise BackendError(
            f"{node.name} ({node.target}) is not what the native backend knows of recurrent layers: an LSTM in single "
            f"precision, of rows of one length, with at most {_LIMIT} multiply-adds"
        )
    x, h, c = b.dense(x), b.dense(h), b.dense(c)
    biases_of = [b.dense(v) for v in (b_ih, b_hh)] if biases else []
    recurrent = b.store(view_as(b.view(w_hh), aten.t.default))
    from_inputs = b.view(w_ih)
    workspace = Workspace(*(b.new((n.time, n.batch, k * hidden), x.dtype) for k in (4, 1, 1)))
    out, last_h, last_c = (b.new(tuple(v.shape), x.dtype) for v in node.meta["val"][:_WORKSPACE])
    lines = [
        products.call(_rows(x, n.inputs), matrix(from_inputs).t(), _begin(workspace.gates), x.dtype),
        *n.step(f"for (long s = 0; s < {n.time}; ++s)"),
        f"const float *before = {n.before(out, h)}, *old = {n.before(workspace.cells, c)};",
        f"float *gates = {n.part(workspace.gates, 4 * hidden)}, *now = {n.part(out, hidden)};",
        f"float *cell = {n.part(workspace.cells, hidden)}, *squashed = {n.part(workspace.squashed, hidden)};",
        products.call(
            Matrix("before", n.batch, hidden, (hidden, 1)), _rows(recurrent, 4 * hidden), "gates", x.dtype, "1"
        ),
        *_activate(n, biases_of),
        "}",
        *_copied(last_h, out, n),
        *_copied(last_c, workspace.cells, n),
    ]
    b.helpers |= {products.name(x.dtype): products.helper(x.dtype), "curves": CURVES}
    reads = {v.buffer for v in (x, h, c, recurrent, from_inputs, *biases_of)}
    b.add(
        ["{", *lines, "}"], reads, out, last_h, last_c, workspace.gates, workspace.cells, workspace.squashed, work=work
    )
    return out, last_h, last_c, workspace


def _activate(n: Sizes, biases: list[View]) -> list[str]:
    """C: the gates of a step, of which the products are there, and what follows from them."""
    hidden = n.hidden
    added = [" + ".join(["", *(f"{v.buffer.name}[{v.offset + k * hidden} + j]" for v in biases)]) for k in range(4)]
    return [
        f"for (long r = 0; r < {n.batch}; ++r) {{",
        f"float *g = gates + r * {4 * hidden}L;",
        f"const long at = r * {hidden}L;",
        "#pragma omp simd",
        f"for (long j = 0; j < {hidden}; ++j) {{",
        f"    const float i = memograd_logisticf(g[j]{added[0]});",
        f"    const float f = memograd_logisticf(g[{hidden} + j]{added[1]});",
        f"    const float n = memograd_tanhf(g[{2 * hidden} + j]{added[2]});",
        f"    const float o = memograd_logisticf(g[{3 * hidden} + j]{added[3]});",
        "    const float c = f * old[at + j] + i * n, q = memograd_tanhf(c);",
        f"    g[j] = i; g[{hidden} + j] = f; g[{2 * hidden} + j] = n; g[{3 * hidden} + j] = o;",
        "    cell[at + j] = c; squashed[at + j] = q; now[at + j] = o * q;",
        "}",
        "}",
    ]


def _copied(target: View, steps: View, n: Sizes) -> list[str]:
    """C: ``target`` is the state behind the last step."""
    last = 0 if n.reverse else (n.time - 1) * n.state
    return [f"__builtin_memcpy({_begin(target)}, {_begin(steps)} + {last}L, {4 * n.state}L);"]


@kernel(lstm_layer_backward)
def backward(
    b: Builder, node: fx.Node, x: Value, w_ih: Value, w_hh: Value, b_ih: Value, b_hh: Value, h: Value, c: Value,
    out: Value, h_n: Value, c_n: Value, workspace: Any, g_out: Value | None, g_h: Value | None, g_c: Value | None,
    reverse: bool, biases: bool,
) -> tuple[View | None, ...]:  # fmt: skip
    if not isinstance(workspace, Workspace):
        raise BackendError(f"the native backend runs {node.target} behind its own forward pass only")
    n = Sizes(*x.shape, h.shape[-1], reverse)  # pyright: ignore[reportCallIssue]
    read_parts: set[Any] = set()
    read_parts.update(user.args[1] for user in node.users if user.target is operator.getitem)
    x, h, c, out, w_hh = (b.dense(v) for v in (x, h, c, out, w_hh))
    h_bar, c_bar = (b.new((n.batch, n.hidden), x.dtype) for _ in range(2))
    gates_bar = b.new((n.time, n.batch, 4 * n.hidden), x.dtype)
    out_bar = None if g_out is None else b.view(g_out)
    lines, reads = [], {v.buffer for v in (x, h, c, out, w_hh, workspace.gates, workspace.cells, workspace.squashed)}
    for target, value in ((h_bar, g_h), (c_bar, g_c)):
        start = None if value is None else b.dense(value)
        reads |= set() if start is None else {start.buffer}
        lines.append(_started(target, start, 4 * n.state))
    lines += [
        *n.step(f"for (long s = {n.time - 1}; s >= 0; --s)"),
        f"const float *old = {n.before(workspace.cells, c)}, *gates = {n.part(workspace.gates, 4 * n.hidden)};",
        f"const float *squashed = {n.part(workspace.squashed, n.hidden)};",
        f"float *bars = {n.part(gates_bar, 4 * n.hidden)}, *hb = {_begin(h_bar)}, *cb = {_begin(c_bar)};",
        *_cell_backward(n, out_bar),
        products.call(Matrix("bars", n.batch, 4 * n.hidden, (4 * n.hidden, 1)), matrix(w_hh), "hb", x.dtype),
        "}",
    ]
    if out_bar is not None:
        reads.add(out_bar.buffer)
    b.helpers[products.name(x.dtype)] = products.helper(x.dtype)
    b.add(["{", *lines, "}"], reads, h_bar, c_bar, gates_bar, work=n.time * n.state * 4 * n.hidden)
    weights = _weights_bar(b, n, read_parts, gates_bar, x, b.dense(w_ih), out, h)
    bias_bar = None
    if biases and read_parts & {3, 4}:
        bias_bar = b.new((4 * n.hidden,), x.dtype)
        reduce(b, bias_bar, gates_bar, [0, 1], "sum")
    states = [view_as(bar, aten.view.default, list(v.shape)) for bar, v in ((h_bar, h), (c_bar, c))]
    return (*weights, bias_bar, bias_bar, *states)


def _started(target: View, start: View | None, size: int) -> str:
    """C: ``target`` is what ``start`` is, or zero; ``size`` in bytes."""
    text = f"memset({_begin(target)}, 0" if start is None else f"memcpy({_begin(target)}, {_begin(start)}"
    return f"__builtin_{text}, {size}L);"


def _cell_backward(n: Sizes, given: View | None) -> list[str]:
    """C: adjoints of a step's gates before activation, and of c before the step."""
    hidden = n.hidden
    from_output = "" if given is None else f" + {given.ref(('t', 'r', 'j'))}"
    return [
        f"for (long r = 0; r < {n.batch}; ++r) {{",
        f"const float *g = gates + r * {4 * hidden}L;",
        f"float *bar = bars + r * {4 * hidden}L;",
        f"const long at = r * {hidden}L;",
        "#pragma omp simd",
        f"for (long j = 0; j < {hidden}; ++j) {{",
        f"    const float i = g[j], f = g[{hidden} + j], n = g[{2 * hidden} + j], o = g[{3 * hidden} + j];",
        f"    const float q = squashed[at + j], h = hb[at + j]{from_output};",
        "    const float c = cb[at + j] + h * o * (1 - q * q);",
        "    bar[j] = c * n * i * (1 - i);",
        f"    bar[{hidden} + j] = c * old[at + j] * f * (1 - f);",
        f"    bar[{2 * hidden} + j] = c * i * (1 - n * n);",
        f"    bar[{3 * hidden} + j] = h * q * o * (1 - o);",
        "    cb[at + j] = c * f;",
        "}",
        "}",
    ]


def _weights_bar(
    b: Builder, n: Sizes, read_parts: set[Any], gates_bar: View, x: View, w_ih: View, out: View, h: View
) -> list[View | None]:
    """Adjoints of x and of both weights: products over all steps at once."""
    wide, dtype = 4 * n.hidden, x.dtype
    all_bars: list[View | None] = [None, None, None]
    bars = _rows(gates_bar, wide)
    if 0 in read_parts:
        all_bars[0] = target = b.new(x.shape, dtype)
        text = products.call(bars, _rows(w_ih, n.inputs), _begin(target), dtype)
        b.add([text], {gates_bar.buffer, w_ih.buffer}, target, work=w_ih.numel * bars.rows)
    if 1 in read_parts:
        all_bars[1] = target = b.new(w_ih.shape, dtype)
        text = products.call(bars.t(), _rows(x, n.inputs), _begin(target), dtype)
        b.add([text], {gates_bar.buffer, x.buffer}, target, work=w_ih.numel * bars.rows)
    if 2 in read_parts:
        all_bars[2] = target = b.new((wide, n.hidden), dtype)
        later, earlier = (0, n.state) if n.reverse else (wide * n.batch, 0)
        first = (n.time - 1) * wide * n.batch if n.reverse else 0
        rows = (n.time - 1) * n.batch
        steps = Matrix(f"{_begin(gates_bar)} + {later}L", rows, wide, (wide, 1))
        states = Matrix(f"{_begin(out)} + {earlier}L", rows, n.hidden, (n.hidden, 1))
        one = Matrix(f"{_begin(gates_bar)} + {first}L", n.batch, wide, (wide, 1))
        lines = [products.call(steps.t(), states, _begin(target), dtype)] if rows else []
        lines.append(products.call(one.t(), _rows(h, n.hidden), _begin(target), dtype, "1" if rows else "0"))
        b.add(lines, {gates_bar.buffer, out.buffer, h.buffer}, target, work=target.numel * bars.rows)
    return all_bars
