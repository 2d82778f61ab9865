"""Saturation: sigmoid, tanh and softmax at their limits, where their derivative is next to nothing."""

from __future__ import annotations

import torch
from torch import fx

from memograd.doctor import zeros
from memograd.doctor.patient import Patient, name_of, norm, wide
from memograd.doctor.report import Finding
from memograd.findings import listed

# A unit counts as saturated where its slope is below 1 % of the steepest one: |tanh| > 0.995, sigmoid beyond 0.0025 or
# 0.9975. Glorot & Bengio 2010 (figure 2) call the top layer of a sigmoid network that does not learn saturated when its
# mean activation with its whole standard deviation is there; healthy layers have a few per cent of such units, gates of
# LSTMs up to half. So nine in ten, and what comes back is under a twentieth of what a working unit would pass on.
FLAT = 0.01
MOST = 0.9
PASSES, PASSES_SOFTMAX = 0.05, 0.2  # few rows near a tie carry what a softmax still passes on
_STEEPEST = {"sigmoid": 0.25, "hardsigmoid": 1 / 6, "tanh": 1.0}
_LOSSES = ("binary_cross_entropy", "nll", "log")  # whose slope is large where the sigmoid's is small: it cancels


def saturation(patient: Patient) -> list[Finding]:
    """Squashing functions of which nearly every element is at its limit."""
    behind = zeros.blamed(patient)
    findings = []
    for u in patient.nodes:
        kind = name_of(u)
        if kind not in _STEEPEST and kind != "_softmax":
            continue
        if any(name_of(c).startswith(_LOSSES) for c in u.users):
            continue
        share = _saturated(patient, u)
        if share is None or share < MOST:
            continue
        v = u.all_input_nodes[0]
        reaches = norm(patient.table[u])
        passed = patient.share(u, v) / reaches / _STEEPEST.get(kind, 0.25) if reaches else 0.0
        if reaches and passed < (PASSES_SOFTMAX if kind == "_softmax" else PASSES):
            findings.append(_finding(patient, u, share, passed, tuple(behind.get(u, ()))))
    return findings


def _saturated(patient: Patient, u: fx.Node) -> float | None:
    """The share of elements (rows of a softmax) that are at a limit."""
    y = wide(patient.values[u])
    if not y.numel():
        return None
    if name_of(u) == "tanh":
        flat = 1 - y.square() < FLAT
    elif name_of(u) == "sigmoid":
        flat = y * (1 - y) < FLAT * 0.25
    elif name_of(u) == "hardsigmoid":
        flat = (y <= 0) | (y >= 1)
    else:
        dim: int = u.args[1]  # pyright: ignore[reportAssignmentType]
        logits = wide(patient.values[u.all_input_nodes[0]])
        rows = (logits > -1e4).sum(dim) > 2  # what a mask leaves; of one or two nothing can be said
        flat = (y.amax(dim) > 1 - FLAT)[rows]
    return flat.double().mean().item() if flat.numel() else None


def _finding(patient: Patient, u: fx.Node, share: float, passed: float, names: tuple[str, ...]) -> Finding:
    kind = name_of(u).strip("_")
    inside = wide(patient.values[u.all_input_nodes[0]])
    size = inside[torch.isfinite(inside)].abs().median().item()
    what = (
        f"{share:.0%} of {'the rows of this softmax' if kind == 'softmax' else f'what {kind} gives'} are at its limits"
    )
    what += f": {listed(names)} get{'s' * (len(names) == 1)} no gradient" if names else ""
    steep = "a softmax that is undecided" if kind == "softmax" else f"a {kind} around 0"
    evidence = (
        f"what goes in is {size:.3g} in size (the median)",
        f"of the gradient it passes on {passed:.2g} times what {steep} would",
    )
    if kind == "softmax":
        fix = "Scale what goes in: scores / math.sqrt(head_dim); normalise queries and keys; a temperature"
    else:
        fix = (
            "Smaller weights or inputs (nn.init.xavier_uniform_, inputs of mean 0 and variance 1), a normalisation in\n"
        )
        fix += "front of it (nn.LayerNorm), or an activation that does not saturate (nn.ReLU, nn.GELU)"
    severity = "error" if passed < 1e-6 else "warning"
    return patient.finding(
        severity, "saturation", what, u, "backward", evidence, fix, names, share=share, passed=passed
    )
