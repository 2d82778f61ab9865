"""What cuDNN does without saying so, done by operators that say it.

PyTorch's composite functions pick cuDNN's kernels by themselves, and three of these cannot be nodes of a graph:

- batch normalization writes its running statistics, which its schema hides: they would be written again by whoever
  computes the operator again, or never where a graph is asked for values alone;
- a recurrent network looks for its weights in one piece of memory, draws its dropout from a state that no generator
  knows, and its backward kernel writes into what the forward kernel kept;
- the CTC loss has no shapes before it has run.

Each has a twin in PyTorch that computes the same. Convolutions and attention stay cuDNN's: they are functions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from memograd._torch import without_cudnn

aten = torch.ops.aten

BATCH_NORMS = (aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default)  # arguments are native_batch_norm's
_CHOICES = ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss")  # whether a library should: no
CHOICES = frozenset(
    getattr(packet, overload)
    for packet in (getattr(aten, name, None) for name in _CHOICES)
    if packet is not None
    for overload in packet.overloads()
)


def as_returned_by(norm: Any, out: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The results of ``native_batch_norm`` as ``norm`` returns them."""
    if norm is aten.miopen_batch_norm.default:
        return out
    return (*out, out[0].new_empty(0, dtype=torch.uint8))  # what cuDNN keeps for its backward


class _Forbidden:
    """cuDNN is off while anybody wants it to be: captures nest, and run on several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = 0
        self.flags: AbstractContextManager[None] = nullcontext()

    def enter(self) -> None:
        with self.lock:
            if not self.wanted:
                self.flags = without_cudnn()
                self.flags.__enter__()
            self.wanted += 1

    def leave(self) -> None:
        with self.lock:
            self.wanted -= 1
            if not self.wanted:
                self.flags.__exit__(None, None, None)


_FORBIDDEN = _Forbidden()


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` that run inside, in this thread, do so step by step, by PyTorch's own
    kernels."""
    thread, running = threading.get_ident(), 0

    def enter(module: nn.Module, _args: object) -> None:
        nonlocal running
        if isinstance(module, nn.RNNBase) and threading.get_ident() == thread:
            running += 1
            _FORBIDDEN.enter()

    def leave(module: nn.Module, _args: object, _out: object) -> None:
        nonlocal running
        if isinstance(module, nn.RNNBase) and threading.get_ident() == thread and running:
            running -= 1
            _FORBIDDEN.leave()

    before = module_hooks.register_module_forward_pre_hook(enter)
    after = module_hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
        for _ in range(running):
            _FORBIDDEN.leave()
