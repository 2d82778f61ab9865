"""Tensors that say of themselves that their numbers are to be conjugated or negated when they are read.

``x.conj()`` and ``x.conj().imag`` are views that set such a bit; PyTorch does the work where an operator needs it.
Graphs are captured on tensors without bits (an operator that reads memory as it lies, ``view_as_real``, refuses
others), so what they are given is worked out first.
"""

from __future__ import annotations

import torch


def has_bits(tensor: torch.Tensor) -> bool:
    """Whether the numbers of ``tensor`` are others than those in its memory."""
    return tensor.is_conj() or tensor.is_neg()


def worked_out(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in memory of their own; ``tensor`` itself where they lie there already."""
    return tensor.resolve_conj().resolve_neg()
