"""``as_strided`` counts in the memory, whatever view it is called on, and may show more of it than that view does::

    column = y[:, 0]
    odd = column.as_strided((3,), (2,))     # elements 0, 2 and 4 of y, of which column has the first
    y.mul_(w)                               # all three have changed

So where it has to be done again, since the memory was written to, it is done on that memory. Autograd does so too; what
is read of such a view before anything was written gets its adjoint by way of the view that it was called on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from memograd.errors import CaptureError
from memograd.tracing.provenance import caller

aten = torch.ops.aten
Emit = Callable[[Any, Any, Any, Any], fx.Node]


def strided_anew(base: torch.Tensor, view: torch.Tensor, offset: int | torch.SymInt) -> Any:
    """The step (see ``mutation.py``) that makes ``view``, which begins at ``offset``, of ``base``, as which its memory
    was first seen; None where that has other numbers, or lies otherwise."""
    if base.dtype != view.dtype or base.is_conj() != view.is_conj() or base.is_neg() != view.is_neg():
        return None
    if not base.is_contiguous() or base.storage_offset() or not view.numel():
        return None
    last = offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride(), strict=True))
    step = (aten.as_strided.default, (list(view.shape), list(view.stride()), offset), {}, None)
    return step if last < base.numel() else None


def in_order(node: fx.Node, emit: Emit) -> fx.Node:
    """``node`` as its value is said to lie in memory: what was written may lie otherwise."""
    like = node.meta["val"]
    if not like.is_contiguous():
        return node
    return emit(aten.clone.default, (node,), {"memory_format": torch.contiguous_format}, like)


def refuse_strided(chain: tuple[tuple[Any, torch.Tensor], ...]) -> None:
    """A view is to be made again, or written through.

    Raises:
        CaptureError: it is one by ``as_strided`` of another view, and its memory does not lie as a graph could follow.
    """
    if any(step[0] is aten.as_strided.default for step, _ in chain[1:]):
        source, line = caller()
        raise CaptureError(
            f"{source} ({line.strip()}) writes to memory of which as_strided, called on a view, shows a part, and that "
            "does not lie as a graph could follow; call as_strided on a contiguous tensor"
        )
