"""Fused recurrent kernels.

On the CPU a float32 LSTM layer is one oneDNN kernel, on CUDA a whole recurrent network is one cuDNN kernel and a cell
is one pointwise kernel. Everything else arrives unrolled and needs no rule here.
"""

from typing import Any

import torch

from memograd.lstm_layer import lstm_layer_backward
from memograd.rules.registry import expand, refuse, rule

aten = torch.ops.aten


# -- oneDNN: one layer of an LSTM, in one direction --------------------------------------------------------------------


@rule(aten.mkldnn_rnn_layer.default, formula="backpropagation through time, by the kernel")
def mkldnn_rnn_layer(adjoint, y, x, w_ih, w_hh, b_ih, b_hh, h, c, reverse, batch_sizes, mode, hidden_size, *how):
    has_biases = how[1]
    parts = lstm_layer_backward(x, w_ih, w_hh, b_ih, b_hh, h, c, *y, *adjoint[:3], reverse, has_biases)
    return parts if has_biases else (*parts[:3], None, None, *parts[5:])


@expand(lstm_layer_backward, formula="backpropagation through time")
def lstm_layer_backward_formula(
    x, w_ih, w_hh, b_ih, b_hh, h, c, output, h_n, c_n, workspace, g_output, g_h, g_c, reverse, has_biases
):
    order = range(x.shape[0] - 1, -1, -1) if reverse else range(x.shape[0])
    h_t, c_t = h.reshape(-1, w_hh.shape[1]), c.reshape(-1, w_hh.shape[1])
    steps = []
    for t in order:
        gates = x[t] @ w_ih.t() + b_ih + h_t @ w_hh.t() + b_hh
        i, f, g, o = _activated(gates)
        c_next = f * c_t + i * g
        steps.append((t, i, f, g, o, h_t, c_t, c_next))
        h_t, c_t = o * c_next.tanh(), c_next
    h_bar = torch.zeros_like(h_t) if g_h is None else g_h.reshape(h_t.shape)
    c_bar = torch.zeros_like(c_t) if g_c is None else g_c.reshape(c_t.shape)
    rows: list[Any] = [None] * len(steps)
    before: list[Any] = [None] * len(steps)
    for t, i, f, g, o, h_before, c_before, c_after in reversed(steps):
        if g_output is not None:
            h_bar = h_bar + g_output[t]
        gates_bar, c_bar = _cell_backward(h_bar, c_bar, i, f, g, o, c_before, c_after)
        rows[t], before[t] = gates_bar, h_before
        h_bar = gates_bar @ w_hh
    all_gates = torch.stack(rows)
    flat = all_gates.flatten(0, 1)
    bias_bar = flat.sum(0)
    w_ih_bar = flat.t() @ x.flatten(0, 1)
    w_hh_bar = flat.t() @ torch.stack(before).flatten(0, 1)
    return all_gates @ w_ih, w_ih_bar, w_hh_bar, bias_bar, bias_bar, h_bar.reshape(h.shape), c_bar.reshape(c.shape)


def _activated(gates):
    i, f, g, o = gates.chunk(4, 1)
    return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()


def _cell_backward(h_bar, c_bar, i, f, g, o, c_before, c_after):
    """The adjoints of the gates before activation and of the old cell state: c' = f c + i g, h' = o tanh c'."""
    squashed = c_after.tanh()
    c_bar = c_bar + h_bar * o * (1 - squashed * squashed)
    gates_bar = [
        c_bar * g * i * (1 - i),
        c_bar * c_before * f * (1 - f),
        c_bar * i * (1 - g * g),
        h_bar * squashed * o * (1 - o),
    ]
    return torch.cat(gates_bar, 1), c_bar * f


# -- CUDA cells ------------------------------------------------------------------------------------------------------


@rule(aten._thnn_fused_lstm_cell.default, formula="c' = f c + i g, h' = o tanh c', by the kernel")
def fused_lstm_cell(adjoint, y, input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):
    h_bar, c_bar, workspace_bar = adjoint
    _, cy, workspace = y
    gates_bar = cx_bar = bias_bar = None
    if h_bar is not None or c_bar is not None:
        gates_bar, cx_bar, bias_bar = aten._thnn_fused_lstm_cell_backward_impl(
            h_bar, c_bar, cx, cy, workspace, input_bias is not None
        )
    if workspace_bar is not None:  # the workspace holds the activated gates
        i, f, g, o = workspace.chunk(4, 1)
        slopes = torch.cat([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], 1)
        extra = workspace_bar * slopes
        gates_bar = extra if gates_bar is None else gates_bar + extra
        bias_bar = gates_bar.sum(0)
    if input_bias is None:
        bias_bar = None
    return gates_bar, gates_bar, cx_bar, bias_bar, bias_bar


@expand(aten._thnn_fused_lstm_cell_backward_impl.default, formula="c' = f c + i g, h' = o tanh c'")
def fused_lstm_cell_backward(h_bar, c_bar, cx, cy, workspace, has_bias):
    h_bar = torch.zeros_like(cx) if h_bar is None else h_bar
    c_bar = torch.zeros_like(cx) if c_bar is None else c_bar
    i, f, g, o = workspace.chunk(4, 1)
    gates_bar, cx_bar = _cell_backward(h_bar, c_bar, i, f, g, o, cx, cy)
    return gates_bar, cx_bar, gates_bar.sum(0) if has_bias else None


@rule(aten._thnn_fused_gru_cell.default, formula="h' = n + z (h - n), n = tanh(a + r b), by the kernel")
def fused_gru_cell(adjoint, y, input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):
    if adjoint[0] is None:
        return None
    parts = aten._thnn_fused_gru_cell_backward(adjoint[0], y[1], input_bias is not None)
    return tuple(parts)


# -- cuDNN, MIOpen -----------------------------------------------------------------------------------------------------


@rule(aten._cudnn_rnn.default, formula="backpropagation through time, by the kernel")
def cudnn_rnn(adjoint, y, x, weight, weight_stride0, weight_buf, hx, cx, *how):
    output, _, _, reserve, buffer = y
    g_output, g_h, g_c = adjoint[:3]
    mask = [True, True, cx is not None, True]
    x_bar, h_bar, c_bar, weight_bar = aten._cudnn_rnn_backward(
        x, weight, weight_stride0, buffer, hx, cx, output, g_output, g_h, g_c, *how, reserve, mask
    )
    return x_bar, list(weight_bar), None, None, h_bar, c_bar if cx is not None else None


refuse(
    aten._thnn_fused_gru_cell_backward.default,
    aten._cudnn_rnn_backward.default,
    why="this fused recurrent kernel has no second derivative; use torch.backends.cudnn.flags(enabled=False)",
)


# -- packed sequences --------------------------------------------------------------------------------------------------


@rule(aten._pack_padded_sequence.default, formula="x̄: every packed row of ȳ back to its place")
def pack_padded_sequence(adjoint, y, x, lengths, batch_first):
    """Packed are the rows with time < length, time by time; PyTorch's own backward would have to read values."""
    if adjoint[0] is None:
        return None
    time_first = x.transpose(0, 1) if batch_first else x
    times = torch.arange(time_first.shape[0], device=lengths.device)
    there = (times.unsqueeze(1) < lengths).to(x.device).reshape(*time_first.shape[:2], *[1] * (x.dim() - 2))
    x_bar = torch.zeros_like(time_first).masked_scatter(there, adjoint[0])
    return x_bar.transpose(0, 1) if batch_first else x_bar
