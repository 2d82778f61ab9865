"""Gradient noise against batch size: how much of the gradient is what all samples agree on.

McCandlish, Kaplan, Amodei & others 2018, An Empirical Model of Large-Batch Training, appendix A.1: with the squared
norms of gradients of two batch sizes, B and b,

    |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b)        what samples agree on
    S     = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)        the variance of one sample

and S / |G|^2 is the batch size at which noise and signal are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.doctor.patient import Patient, norm
from memograd.doctor.report import Finding, Where
from memograd.errors import MemogradError

PARTS = 4
# At the noise scale itself training still goes half as fast as it could for each step; a tenth of it is where most work
# is averaging away noise. Late in training every batch is below it: so it is a note.
NOISY = 10.0

Examine = Callable[[tuple[Any, ...], dict[str, Any]], Patient]


def noise(patient: Patient, args: tuple[Any, ...], kwargs: dict[str, Any], examined: Examine) -> list[Finding]:
    """A note where the batch is far below the noise scale. ``examined`` looks at a part of the batch."""
    n = patient.batch
    if n < 2 * PARTS or n % PARTS:
        return []
    rows = [slice(k * n // PARTS, (k + 1) * n // PARTS) for k in range(PARTS)]
    try:
        small = [_square(examined(*_part((args, kwargs), n, some))) for some in rows]
    except (MemogradError, RuntimeError, ValueError, IndexError):  # it takes batches of this size only
        return []
    scale = noise_scale(_square(patient), sum(small) / PARTS, n)
    if scale is None or scale < NOISY * n:
        return []
    what = f"the gradient is mostly noise at a batch of {n}: signal and noise are equal at about {scale:.2g} samples"
    evidence = (f"the squared norm is {_square(patient):.3g}, and {sum(small) / PARTS:.3g} for a quarter of the batch",)
    fix = "Larger batches, or several batches to an update (accumulate=...); a smaller learning rate averages over time"
    return [Finding("note", "noisy gradient", what, Where(), evidence, fix, "", (), {"noise_scale": scale})]


def noise_scale(whole: float, part: float, n: int) -> float | None:
    """From the squared norms of the gradient of a batch of ``n`` and of a part of it, on average; None where the parts
    agree on nothing that could be measured, or on everything."""
    b = n // PARTS
    signal = (n * whole - b * part) / (n - b)
    variance = (part - whole) / (1 / b - 1 / n)
    return variance / signal if variance > 0 and signal > 0 else None


def _square(patient: Patient) -> float:
    return sum(norm(patient.gradient(name)) ** 2 for name in patient.parameters)


def _part(given: Any, n: int, rows: slice) -> Any:
    def cut(t: torch.Tensor) -> torch.Tensor:
        return t[rows] if t.dim() and len(t) == n else t

    return pytree.tree_map_only(torch.Tensor, cut, given)
