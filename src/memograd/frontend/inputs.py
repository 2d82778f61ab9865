"""The flat inputs of a wrapped model's graph: what a call's arguments are, and what the model itself holds.

What it holds is the same tensors, in the same place, from call to call, and is looked up anew only where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd._torch import address
from memograd.graph.bits import has_bits
from memograd.graph.graph import Graph
from memograd.graph.signature import may_share, refuse_shared

Tensor = torch.Tensor


class Inputs:
    """Those of ``graph``.

    Attributes:
        bound: the flat inputs that are no arguments, as they were last, and None for each argument; None where some of
            them had to be laid out anew.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.bound: list[Any] | None = None
        self._arguments = [k for k, i in enumerate(graph.inputs) if i.tensor is None]  # where they go
        self._writes = bool(graph.positions("mutation"))
        self._held: list[Tensor] = []
        self._lie: list[Any] = []

    def flat(self, args: Any, kwargs: Any) -> list[Any]:
        """The flat inputs for these arguments."""
        if not only_tensors((*args, *kwargs.values())):
            return self.graph.bind(args, kwargs)
        if kwargs:  # in an order of the caller's
            return self._bind(args, kwargs)
        self.graph.check_offsets(args)
        if self.bound is None or self.graph.guards.moved or [*map(_lies, self._held)] != self._lie:
            return self._bind(args, kwargs)
        flat = self.bound.copy()
        for position, tensor in zip(self._arguments, args, strict=True):
            flat[position] = tensor
        if self._writes and may_share(self.graph.inputs, self.graph.written, flat):
            refuse_shared(self.graph.inputs, self.graph.written, flat)
        return flat

    def _bind(self, args: Any, kwargs: Any) -> list[Any]:
        flat = self.graph.bind(args, kwargs)
        pairs = [(i.bound, t) for i, t in zip(self.graph.inputs, flat, strict=True)]
        self.bound = [b for b, _ in pairs] if all(b is None or b is t for b, t in pairs) else None
        self._held = [b for b, _ in pairs if b is not None]
        self._lie = [*map(_lies, self._held)]
        self.graph.guards.moved = False
        return flat


def _lies(tensor: Tensor) -> Any:
    """How ``tensor`` lies in memory."""
    return address(tensor), tensor.stride() if tensor.layout is torch.strided else None


def only_tensors(args: Sequence[Any]) -> bool:
    """Whether there is nothing to look through for tensors, and these are dense, and nothing is noted on them."""
    return all([type(x) is Tensor and x.layout is torch.strided and _is_plain(x) for x in args])


def _is_plain(x: Tensor) -> bool:
    return not (x.is_nested or x.__dict__ or has_bits(x))
