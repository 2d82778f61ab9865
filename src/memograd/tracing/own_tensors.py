"""Tensors of a program that PyTorch makes past its dispatcher: ``nn.Parameter(y)``, ``y.as_subclass(torch.Tensor)``.

To a tape they are tensors it has never seen, as constants of the user's are. But they lie where a tensor of the program
lies, and where a program runs on values (on copies of whatever it was given), nothing of the user's does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import torch

from memograd._torch import is_fake, is_wrapped, memory_of
from memograd.errors import CaptureError
from memograd.tracing.mutation import Alias
from memograd.tracing.provenance import caller


class OwnTensors:
    """The tensors of a program by where they lie, looked through as far as a tape has come when it is asked."""

    def __init__(self) -> None:
        self._at: dict[int, list[torch.Tensor]] = {}
        self._seen = 0

    def same_as(
        self, tensor: torch.Tensor, known: Mapping[int, Alias], is_own: Callable[[torch.Tensor], bool]
    ) -> torch.Tensor | None:
        """The program's tensor that lies where ``tensor`` lies, and as it does.

        Raises:
            CaptureError: ``tensor`` has a gradient and lies there in another way.
        """
        for alias in islice(known.values(), self._seen, None):
            one = alias.tensor
            if not is_fake(one) and one.layout is torch.strided and not is_wrapped(one) and is_own(one):
                self._at.setdefault(memory_of(one), []).append(one)
        self._seen = len(known)
        if tensor.layout is not torch.strided or is_wrapped(tensor) or tensor.numel() == 0:
            return None
        there = [t for t in self._at.get(memory_of(tensor), ()) if id(t) in known]
        for one in there:
            if _geometry(one) == _geometry(tensor):
                return one
        if there and tensor.requires_grad:
            source, line = caller()
            raise CaptureError(f"{source} ({line}) makes a view that no dispatcher sees; use an operator")
        return None


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype
