"""What compiled loops over images have in common: of which numbers, from how many on, shared by how many threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd.run import threads

C_TYPES = {torch.float32: "float", torch.float64: "double"}
WORTH = 1 << 12  # results: fewer take PyTorch no longer than a call of ours
_SHARE = 1 << 16  # results, from which another thread is worth waking


def by_planes(call: Callable[[int, int], Any], planes: int, each: int) -> None:
    """``call(first, last)`` for all planes, in several threads where they are large; ``each``: results of one."""
    threads.in_parts(call, planes, _SHARE // max(1, each))
