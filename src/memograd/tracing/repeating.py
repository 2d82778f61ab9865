"""Writes through views that show one piece of memory several times: ``expand`` and ``unfold``.

The inverse of such a view cannot be told from its values alone::

    rows = x.expand(4, 3)      # x has shape [1, 3]
    rows[0].mul_(2)            # all four rows have doubled, and only one of them is written to

So the elements that are written to are looked up in the memory behind it: the same views of an ``arange`` are their
positions there, and the new values are scattered to them. Where one position is written to twice, the order decides,
and such a write is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from memograd._torch import FAKE, unseen

aten = torch.ops.aten
Emit = Callable[[Any, Any, Any, Any], fx.Node]
Chain = tuple[tuple[Any, Any], ...]  # steps and what they make, see mutation.py
_REPEATING = (aten.expand, aten.unfold)


def repeats(chain: Chain) -> bool:
    """Whether some view in ``chain`` may show an element twice."""
    return any(step[0].overloadpacket in _REPEATING for step, _ in chain)


def written_once(base: torch.Tensor, chain: Chain) -> bool:
    """Whether a write through ``chain`` gets to each element of ``base`` at most once; False where nobody knows."""
    if not base.is_contiguous():
        return False
    with unseen():
        positions = torch.arange(base.numel()).reshape(base.shape)
        try:
            for (func, args, kwargs, index), _ in chain:
                positions = func(positions, *args, **kwargs)
                positions = positions if index is None else positions[index]
        except RuntimeError:  # a view of the bytes, or of complex numbers
            return False
        return positions.unique().numel() == positions.numel()


def scattered(base: torch.Tensor, chain: Chain, before: fx.Node, value: fx.Node, emit: Emit) -> fx.Node:
    """The new value of ``base``, which was ``before``, when what ``chain`` shows of it becomes ``value``."""

    def like(shape: Any, dtype: torch.dtype) -> torch.Tensor:
        with FAKE:
            return torch.empty(shape, dtype=dtype, device=base.device)

    count = base.numel()
    where = emit(aten.arange.default, (count,), {"device": base.device}, like([count], torch.int64))
    where = emit(aten.reshape.default, (where, list(base.shape)), {}, like(base.shape, torch.int64))
    for (func, args, kwargs, index), result in chain:
        where = emit(func, (where, *args), kwargs, like(result.shape, torch.int64))
        if index is not None:
            where = emit(operator.getitem, (where, index), {}, like(result.shape, torch.int64))
    written = chain[-1][1].numel()
    where = emit(aten.reshape.default, (where, [-1]), {}, like([written], torch.int64))
    value = emit(aten.reshape.default, (value, [-1]), {}, like([written], base.dtype))
    flat = emit(aten.reshape.default, (before, [-1]), {}, like([count], base.dtype))
    flat = emit(aten.scatter.src, (flat, 0, where, value), {}, like([count], base.dtype))
    return emit(aten.reshape.default, (flat, list(base.shape)), {}, like(base.shape, base.dtype))
