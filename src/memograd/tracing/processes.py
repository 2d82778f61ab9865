"""What belongs to several processes at once, and cannot be captured in one of them: refused by name.

An operator that waits for other processes must run as often, and in the same order, in each of them; a capture, and the
witness beside a first run, would run it when the others do not. Its schema also says nothing of what it writes to. And
a tensor that is spread over processes has one part of its numbers here.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import torch

from memograd.errors import CaptureError

# Namespaces of operators.
COLLECTIVE = {"c10d", "c10d_functional", "_c10d_functional", "_c10d_functional_autograd", "fsdp", "symm_mem"}


def refuse_collective(func: Any, source: str, line: str) -> NoReturn:
    """Raises CaptureError: ``func`` is an operator that other processes take part in."""
    raise CaptureError(
        f"{func} at {source} ({line.strip()}) talks to other processes, and cannot be captured: call it outside, on "
        "the model's results or gradients, or wrap the parts of the model before and behind it"
    )


def refuse_spread(tensor: torch.Tensor, what: str) -> None:
    """Raises CaptureError where ``tensor`` is spread over processes."""
    module = sys.modules.get("torch.distributed.tensor")  # who has such a tensor has imported it
    if module is not None and isinstance(tensor, module.DTensor):
        raise CaptureError(
            f"{what} is a DTensor, spread over processes as {tensor.placements}, and cannot be captured. "  # pyright: ignore[reportAttributeAccessIssue]
            "Sharded by fully_shard: call the module itself, whose hooks gather its parameters, and not its forward; "
            "tensor parallelism: wrap the parts of the model that are not parallel"
        )
