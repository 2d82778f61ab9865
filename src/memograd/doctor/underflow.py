"""Gradients that are zero in half precision and would not be in float32."""

from __future__ import annotations

from typing import Any

import torch

from memograd.doctor.patient import Patient, name_of, tensors, wide
from memograd.doctor.report import Finding
from memograd.doctor.wider import Wider

# Micikevicius et al. 2018, Mixed Precision Training, section 3.2: in a detector 31 % of the values of activation
# gradients became zero in float16, and it diverged; with less than that it trained. Networks that train without
# scaling lose 5 % or less.
SOME, MANY = 0.05, 0.3


def underflow(patient: Patient, wider: Wider) -> list[Finding]:
    """One finding: the worst adjoint, and how many parameters lose how much."""
    lost = {u: share for u in patient.nodes if (share := _lost(patient.table[u], wider.table.get(u))) > SOME}
    if not lost:
        return []
    node = max(lost, key=lambda u: lost[u] - max((lost.get(c, 0.0) for c in patient.consumers(u)), default=0.0))
    share, first = max(lost.values()), next(reversed(lost))
    reached = {n: p for n, p in patient.parameters.items() if p in patient.table}
    names = tuple(patient.named(n) for n, p in reached.items() if _lost(patient.table[p], wider.table.get(p)) > SOME)
    dtype = str(tensors(patient.table[node])[0].dtype).removeprefix("torch.")
    size = _typical(wider.table[node])
    what = f"{share:.0%} of the gradient behind {name_of(node)} are zero in {dtype} and would not be in float32"
    limit = torch.finfo(tensors(patient.table[node])[0].dtype).smallest_normal
    evidence = (
        f"in float64 it is {size:.1e} in size (the median); {dtype} has fewer and fewer digits below {limit:.1e}",
        f"it begins at {name_of(first)} ({first.meta.get('source', '')}), {len(lost)} operators lose gradients",
    )
    fix = "scaler = torch.amp.GradScaler(); scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()\n"
    fix += "or torch.autocast(..., dtype=torch.bfloat16), which reaches as far down as float32"
    severity = "error" if share > MANY and names else "warning"
    return [patient.finding(severity, "underflow", what, node, "backward", evidence, fix, names, share=share)]


def _lost(adjoint: Any, wide_one: Any) -> float:
    """The share of elements that are zero and would not be."""
    parts, others = tensors(adjoint), tensors(wide_one)
    if not parts or len(parts) != len(others) or parts[0].dtype not in (torch.float16, torch.bfloat16):
        return 0.0
    lost = there = 0
    for part, other in zip(parts, others, strict=True):
        # what float32 could not hold either is no loss of half precision
        nonzero = wide(other).abs() > torch.finfo(torch.float32).smallest_normal
        lost += int((nonzero & (wide(part) == 0)).sum())
        there += int(nonzero.sum())
    return lost / there if there else 0.0


def _typical(adjoint: Any) -> float:
    flat = torch.cat([wide(t).flatten() for t in tensors(adjoint)]).abs()
    flat = flat[flat > 0]
    return flat.median().item() if flat.numel() else 0.0
