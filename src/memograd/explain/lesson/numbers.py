"""Numbers on their way to the page: so many digits as can be told apart there, long rows of them as bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from memograd.explain.numbers import number

DIGITS = 10


def numbers(values: torch.Tensor | Iterable[float], digits: int = DIGITS) -> list[Any]:
    """A tensor as nested lists, or numbers as a list."""
    values = values.tolist() if isinstance(values, torch.Tensor) else list(values)
    return [numbers(v, digits) if isinstance(v, list) else number(v, digits) for v in values]


def floats(values: torch.Tensor) -> str:
    """As little-endian float32, in base64."""
    return base64.b64encode(values.detach().float().contiguous().numpy().astype("<f4").tobytes()).decode()


def levels(values: torch.Tensor, low: float, high: float) -> str:
    """As bytes from ``low`` (0) to ``high`` (255), in base64."""
    assert values.isfinite().all(), "no byte says NaN or infinity"
    cells = ((values.detach().double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    return base64.b64encode(cells.contiguous().numpy().tobytes()).decode()


def signed_levels(values: torch.Tensor, most: torch.Tensor) -> str:
    """As bytes from ``-most`` (0) over 0 (127, exactly) to ``most`` (254), in base64."""
    return levels(values / most.where(most > 0, 1), -1, 128 / 127)


def spread(last: int, each: int, count: int) -> Sequence[int]:
    """0, 1, ... ``each``, then ever fewer: about ``count`` whole numbers up to ``last``."""
    rest = count - each
    steps = [round(each * (last / each) ** (k / rest)) for k in range(1, rest + 1)]
    return sorted({*range(each + 1), *steps})
