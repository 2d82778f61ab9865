"""oneDNN's LSTM as operators that do not depend on grad mode.

``mkldnn_rnn_layer`` returns its workspace only when grad mode is on. Backends run with grad mode on (on tensors that
require no gradient, so nothing is taped) and get it. Where it is empty, because somebody ran the graph under
``no_grad``, the forward kernel is run once more right before the backward kernel: slower, never wrong.

A compiler runs what it compiles under ``no_grad``, and believes what is said of a result's size; PyTorch says that the
workspace has one element. For it there is ``lstm_layer``, the forward kernel with its workspace, of the size it has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.library import Library

from memograd._torch import schema_of, unseen

aten = torch.ops.aten

_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define(
    "lstm_layer_backward(Tensor x, Tensor w_ih, Tensor w_hh, Tensor b_ih, Tensor b_hh, Tensor h, Tensor c, "
    "Tensor output, Tensor h_n, Tensor c_n, Tensor? workspace, "
    "Tensor? g_output, Tensor? g_h, Tensor? g_c, bool reverse, bool has_biases) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(str(schema_of(aten.mkldnn_rnn_layer.default)).replace("aten::mkldnn_rnn_layer", "lstm_layer"))
LSTM_MODE = 2
_TENSORS = 7  # operands of a layer, before its options


@torch.library.impl(_LIBRARY, "lstm_layer_backward", "CPU")
def _backward(x, w_ih, w_hh, b_ih, b_hh, h, c, output, h_n, c_n, workspace, g_output, g_h, g_c, reverse, has_biases):
    inputs = [t.detach() for t in (x, w_ih, w_hh, b_ih, b_hh, h, c)]
    hidden = w_hh.shape[1]
    if workspace is None or workspace.numel() == 0:
        with torch.enable_grad():
            output, h_n, c_n, workspace = aten.mkldnn_rnn_layer.default(
                *inputs, reverse, [], LSTM_MODE, hidden, 1, has_biases, False, False, True
            )
    sizes = (LSTM_MODE, hidden, 1, has_biases, True, False, [], False)
    parts = aten.mkldnn_rnn_layer_backward.default(
        *inputs, output, h_n, c_n, g_output, g_h, g_c, reverse, *sizes, workspace
    )
    bias = parts[4].clone()  # the two biases have the same gradient; results of an operator must not share memory
    return (*parts[:4], bias, *parts[5:])


@torch.library.impl(_LIBRARY, "lstm_layer_backward", "Meta")
def _backward_meta(
    x, w_ih, w_hh, b_ih, b_hh, h, c, output, h_n, c_n, workspace, g_output, g_h, g_c, reverse, has_biases
):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, w_ih, w_hh, b_ih, b_hh, h, c))


lstm_layer_backward = torch.ops.memograd.lstm_layer_backward.default


@torch.library.impl(_LIBRARY, "lstm_layer", "CPU")
def _layer(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors = [t.detach() for t in args[:_TENSORS]]
    with torch.enable_grad():
        return aten.mkldnn_rnn_layer.default(*tensors, *args[_TENSORS:])


@torch.library.register_fake("memograd::lstm_layer", lib=_LIBRARY)
def _layer_without_data(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, (reverse, lengths, *options) = args[:_TENSORS], args[_TENSORS:]
    *parts, _ = aten.mkldnn_rnn_layer.default(*args)
    size = _workspace(tuple((t.shape, t.dtype) for t in tensors), reverse, tuple(lengths), tuple(options))
    return (*parts, tensors[0].new_empty(size, dtype=torch.uint8))


@cache
def _workspace(tensors: tuple[Any, ...], reverse: bool, lengths: tuple[int, ...], options: tuple[Any, ...]) -> int:
    """Bytes of the kernel's workspace, which only the kernel knows."""
    with unseen():
        zeros = [torch.zeros(shape, dtype=dtype, device="cpu") for shape, dtype in tensors]
        return _layer(*zeros, reverse, list(lengths), *options)[3].numel()
