"""Autocast: it acts on a program while it is captured, and on nothing of ours behind that.

What a program computes in lower precision is part of its graph, cast by cast. The derivative rules, the optimizer's
formulas and the graphs themselves run with autocast off, as PyTorch's backward does behind the ``with`` block: a matrix
product that the program computes in single precision has its gradient computed in single precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch


def _devices() -> tuple[str, ...]:
    """Types of devices that autocast may be on for: the CPU, and the accelerator PyTorch was built for."""
    accelerator = torch.accelerator.current_accelerator()
    return tuple(dict.fromkeys(("cpu", "cuda", *([accelerator.type] if accelerator is not None else []))))


DEVICES = _devices()


def state() -> tuple[torch.dtype | None, ...]:
    """The precision that autocast casts to on each device, None where it is off."""
    return tuple(torch.get_autocast_dtype(d) if torch.is_autocast_enabled(d) else None for d in DEVICES)


def on() -> bool:
    """Whether anything is cast."""
    return any([torch.is_autocast_enabled(device) for device in DEVICES])


def off() -> AbstractContextManager[Any]:
    """What runs inside is computed in the precision of its operands."""
    stack = None
    for device in DEVICES:
        if torch.is_autocast_enabled(device):
            stack = stack or ExitStack()
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack or nullcontext()
