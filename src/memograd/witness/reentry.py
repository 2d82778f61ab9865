"""Checkpoints with reentry (``checkpoint(..., use_reentrant=True)``) among what a tensor was computed by.

To autograd such a part of a program depends on its arguments alone. The parameters that it uses get their gradients
into ``.grad``, by a backward pass inside of the backward pass. PyTorch refuses that where a backward pass is told where
to go, as ``torch.autograd.grad`` is; but only if it gets there: where no parameter lies in front, it passes by in
silence, and those inside seem to have no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction

from memograd._torch import backward_class, nodes_behind

Tensor = torch.Tensor


def reenters(ends: Iterable[Tensor]) -> bool:
    """Whether there is one."""
    return _reenters(nodes_behind(ends))


def leaves_to_go_to(ends: Iterable[Tensor]) -> list[Tensor]:
    """Where there is one, all the leaves that ``ends`` were computed from: a backward pass that is told to go to these
    gets there, and PyTorch says that it cannot run it."""
    nodes = nodes_behind(ends)
    return [node.variable for node in nodes if hasattr(node, "variable")] if _reenters(nodes) else []


def _reenters(nodes: Iterable[Any]) -> bool:
    own = backward_class(CheckpointFunction)
    return any(isinstance(node, own) for node in nodes)
