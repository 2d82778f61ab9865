"""What no step can be faster than here: its arithmetic at the highest rate that a matrix product reaches, and its bytes
at the highest rate at which memory is copied. Both rates are measured, on the threads that are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from memograd.graph.graph import Graph
from memograd.graph.views import is_view, tensors_of


@dataclass(frozen=True)
class Machine:
    """``flops`` a second of a matrix product in float32, ``bytes`` a second of a copy (read and written)."""

    flops: float
    bytes: float


def machine() -> Machine:
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    product = torch.empty_like(a)
    source = torch.zeros(32 << 20)  # 128 MiB: beyond every cache
    target = torch.empty_like(source).fill_(0)
    flops = 2 * 1024**3 / _least(lambda: torch.mm(a, b, out=product), 9)
    return Machine(flops, 2 * source.nbytes / _least(lambda: target.copy_(source), 9))


def _least(call: Callable[[], Any], trials: int) -> float:
    times = []
    for _ in range(trials):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def _lstm(x: Any, w_ih: Any, w_hh: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * x[0] * x[1] * (w_ih[0] * w_ih[1] + w_hh[0] * w_hh[1])


def _lstm_backward(*shapes: Any, **_: Any) -> int:
    return 2 * _lstm(*shapes)


_ALSO = {torch.ops.aten.mkldnn_rnn_layer: _lstm, torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_backward}


def operations(step: Callable[[], Any]) -> int:
    """Multiplications and additions of products, convolutions and LSTM layers; what is elementwise does not count."""
    with FlopCounterMode(display=False, custom_mapping=_ALSO) as counter:
        step()
    return counter.get_total_flops()


def traffic(graph: Graph) -> int:
    """Bytes if every value of a step is written once and read once, however many operators read it: what kernels would
    move if all that can be fused were."""
    values = [t for n in graph.nodes if not is_view(n) for t in tensors_of(n)]
    inputs = [n.meta["val"] for n in graph.placeholders]
    return sum(2 * t.numel() * t.element_size() for t in [*values, *inputs])
