"""Findings that are but a symptom of another one are left out: one cause, one finding."""

from __future__ import annotations

from collections.abc import Iterable

from memograd.doctor.report import Finding

# A symptom, and what explains it: with one of the causes named the symptom is not worth a finding of its own.
_CONSEQUENCES = {
    "same output for all samples": {
        "dead units",
        "saturation",
        "vanishing gradient",
        "zero initialisation",
        "all units the same",
        "inputs unused",
        "inputs all the same",
        "normalised away",
        "softmax over one class",
        "zero factor",
    },
    "dead units": {"zero initialisation", "inputs all the same"},
    "weights too large": {"exploding gradient"},
    "bias without effect": {"softmax over the batch"},
    "unused parameter": {"inputs unused", "computed beforehand"},
    "zero gradient": {"underflow", "saturation", "no gradient", "nothing to differentiate"},
    "zero factor": {"zero initialisation", "normalised away", "dead units"},
    "loss is zero": {"gradients cancel"},
}


def without_consequences(findings: Iterable[Finding]) -> list[Finding]:
    """Without symptoms whose cause is among the findings, and without doublets."""
    every = list(findings)
    kinds = {f.kind for f in every if f.severity != "note"}
    causes: list[Finding] = []
    for finding in every:
        explained = _CONSEQUENCES.get(finding.kind, set()) & kinds - {finding.kind}
        if not explained and not any(f == finding for f in causes):
            causes.append(finding)
    return causes
