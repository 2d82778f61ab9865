"""What training scripts do between the backward pass and the next batch, besides the update: clip gradients, add them
up over several batches, average the weights, compute in lower precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isnan
from typing import Any, TypedDict

import torch

from memograd.errors import OptionError

Tensor = torch.Tensor
_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


class StepOptions(TypedDict, total=False):
    """The same as keywords of ``TrainStep``."""

    clip_grad_norm: float | None
    clip_grad_value: float | None
    norm_type: float
    accumulate: int
    ema_decay: float | None
    autocast: torch.dtype | None
    watch: bool
    compile_seconds: float


@dataclass(frozen=True)
class Clip:
    """Gradient clipping as ``torch.nn.utils`` has it: each element by ``value``, then all by their ``norm``."""

    norm: float | None = None
    norm_type: float = 2.0
    value: float | None = None

    def __bool__(self) -> bool:
        return self.norm is not None or self.value is not None

    def bounded(self, gradient: Tensor) -> Tensor:
        """No element is beyond ``value``."""
        return gradient if self.value is None else gradient.clamp(-self.value, self.value)

    def size(self, gradient: Tensor) -> Tensor:
        """The norm of one gradient."""
        return torch.linalg.vector_norm(gradient, self.norm_type)

    def total(self, sizes: Sequence[Tensor]) -> Tensor:
        """The norm of all gradients, from the norm of each."""
        return self.size(torch.stack([size.to(sizes[0].device) for size in sizes]))

    def scale(self, total: Tensor) -> Tensor:
        """What every gradient is multiplied by, when their norm is ``total``."""
        assert self.norm is not None
        return torch.clamp(self.norm / (total + _EPS), max=1.0)

    def by_torch(self, parameters: Sequence[Tensor]) -> Tensor | None:
        """Let PyTorch clip the ``.grad`` of these; returns the norm there was."""
        if self.value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.value)
        if self.norm is None:
            return None
        return torch.nn.utils.clip_grad_norm_(parameters, self.norm, self.norm_type)


@dataclass(frozen=True)
class Refinements:
    """The options of a step that say so; each is off by default.

    Attributes:
        accumulate: batches to an update.
        ema_decay: of the average of the weights; None for no average.
        autocast: the precision that the forward pass runs in; None for that of its operands.
    """

    clip: Clip = Clip()
    accumulate: int = 1
    ema_decay: float | None = None
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, value in (("clip_grad_norm", self.clip.norm), ("clip_grad_value", self.clip.value)):
            if value is not None and not (_is_number(value) and value >= 0):
                raise OptionError(f"{name} must be a number that is not negative, got {value!r}")
        if not _is_number(self.clip.norm_type):
            raise OptionError(
                f"norm_type must be a number, 2.0 or float('inf') for example, got {self.clip.norm_type!r}"
            )
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise OptionError(f"accumulate must be a number of batches, at least 1, got {self.accumulate!r}")
        if self.ema_decay is not None and not (_is_number(self.ema_decay) and 0 <= self.ema_decay <= 1):
            raise OptionError(f"ema_decay must lie between 0 and 1, got {self.ema_decay!r}")
        if self.autocast is torch.float16:
            raise OptionError(
                "autocast=torch.float16 needs a gradient scaler, without which small gradients are zero, and a step in "
                "one graph has none: use torch.bfloat16"
            )
        if self.autocast not in (None, torch.bfloat16):
            raise OptionError(f"autocast must be torch.bfloat16 or None, got {self.autocast!r}")

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """In which the forward pass runs."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not isnan(value)
