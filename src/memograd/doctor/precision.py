"""Which operators lose how many digits, forward and backward, beside the same program in float64.

A result has -log10(error) right digits, and an operator can give no more than its operands have, nor more than its
dtype holds. What it gives less it has lost: by cancellation, by a long sum, by steep slopes. Modules that compute in
half precision are tried in float32 on the same step, and what that does to the gradient is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from memograd.doctor.in_float32 import HALF, trials
from memograd.doctor.patient import Patient, name_of, norm, tensors, wide
from memograd.doctor.report import Finding, Where
from memograd.doctor.wider import Wider

# Half of a digit is lost by a rounding here or there; what loses a whole one has a reason. With less than one right
# digit a gradient has hardly its sign.
TELLING = 1.0
LITTLE = 1.0
_NOTHING = 1e-9
_SHOWN = 8
_HELPS = 0.9  # of the error is left: less is worth a line of code


@dataclass(frozen=True)
class Loss:
    """Digits before and behind an operator, of the forward pass or of a rule."""

    node: fx.Node
    phase: str
    digits_in: float
    digits_out: float

    @property
    def lost(self) -> float:
        return self.digits_in - self.digits_out


def precision(
    patient: Patient, wider: Wider, look_again: Callable[[], Patient]
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about the operators that lose most, and the table of all that lose a digit, worst first.
    ``look_again()`` looks at the same step again."""
    losses = sorted([*_forward(patient, wider), *_backward(patient, wider)], key=lambda x: -x.lost)
    once = {(x.node, x.phase): x for x in reversed(losses)}  # of several operands of a rule the worst
    losses = sorted(once.values(), key=lambda x: -x.lost)
    telling = [x for x in losses if x.lost >= TELLING]
    before = gradient_error(patient, wider, patient)
    in_float32 = trials(patient, wider, lambda other: gradient_error(other, wider, patient), look_again)
    findings = [_finding(patient, x, in_float32, before) for x in telling[:_SHOWN]]
    findings.append(_summary(before, in_float32))
    rows = [{**asdict(_row(patient, x)), "lost": round(x.lost, 2)} for x in losses if x.lost > 0.3]
    return findings, {"gradient_error": before, "in_float32": in_float32, "operators": rows}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    operator: str
    phase: str
    module: str
    source: str
    digits_in: float
    digits_out: float


def _row(patient: Patient, x: Loss) -> Row:
    where = patient.where(x.node)
    return Row(name_of(x.node), x.phase, where.module, where.source, round(x.digits_in, 2), round(x.digits_out, 2))


def digits(value: Any, exact: Any) -> float:
    """How many digits of ``value`` are right, and no more than its dtype holds."""
    parts, others = tensors(value), tensors(exact)
    if not parts or len(parts) != len(others) or not parts[0].is_floating_point():
        return math.inf
    digits_held = -math.log10(torch.finfo(parts[0].dtype).eps)
    apart = norm([_difference(wide(a), wide(b)) for a, b in zip(parts, others, strict=True)])
    size = norm([torch.where(torch.isfinite(b), b, 0.0) for b in map(wide, others)])
    if not math.isfinite(apart):
        return 0.0
    return digits_held if apart == 0 or size == 0 else min(digits_held, max(0.0, -math.log10(apart / size)))


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """None where both are the same infinity, or both are no number."""
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b)


def _forward(patient: Patient, wider: Wider) -> list[Loss]:
    own = {v: digits(patient.values[v], wider.values[v]) for v in patient.values if v in wider.values}
    return [
        Loss(u, "forward", min([_held(u), *(own[v] for v in u.all_input_nodes)]), own[u])
        for u in patient.graph.nodes
        if u.all_input_nodes and math.isfinite(own[u]) and not _is_cast(u) and not name_of(u).startswith("empty")
    ]


def _backward(patient: Patient, wider: Wider) -> list[Loss]:
    losses = []
    own = {v: digits(a, wider.table[v]) for v, a in patient.table.items() if v in wider.table}
    values = {v: digits(patient.values[v], wider.values[v]) for v in own}
    for v, out in own.items():
        consumers = [u for u in patient.consumers(v) if u in own]
        if not consumers or not math.isfinite(out):
            continue
        u = max(consumers, key=lambda c: patient.share(c, v))
        if norm(wider.table[v]) < _NOTHING * norm(wider.table[u]):
            continue  # it is zero but for rounding (a bias in front of a normalisation)
        digits_in = [own[u], *(values.get(w, math.inf) for w in u.all_input_nodes), _held_by(patient.table[v])]
        if not _is_cast(u):
            losses.append(Loss(u, "backward", min(digits_in), out))
    return losses


def _is_cast(u: fx.Node) -> bool:
    return name_of(u) == "_to_copy"


def _held(u: fx.Node) -> float:
    return _held_by(u.meta["val"])


def _held_by(value: Any) -> float:
    parts = [t for t in tensors(value) if t.is_floating_point()]
    return min((-math.log10(torch.finfo(t.dtype).eps) for t in parts), default=math.inf)


def gradient_error(other: Patient, wider: Wider, patient: Patient) -> float:
    """The error of all gradients of ``other`` together, as a share of their norm in float64."""
    apart = size = 0.0
    for name, p in patient.parameters.items():
        exact = wider.table.get(p)
        if exact is not None:
            mine = other.gradient(name)
            apart += norm(wide(mine) - wide(exact) if mine is not None else exact) ** 2
            size += norm(exact) ** 2
    return math.sqrt(apart / size) if size else 0.0


# -- words -------------------------------------------------------------------------------------------------------------


def _finding(patient: Patient, x: Loss, in_float32: Mapping[str, float], before: float) -> Finding:
    what = f"{name_of(x.node)} loses {x.lost:.1f} of {x.digits_in:.1f} digits in the {x.phase} pass"
    evidence = [f"{x.digits_out:.1f} digits are right behind it, beside float64"]
    where = patient.where(x.node, x.phase)
    fix = tried = ""
    if any(t.dtype in HALF for t in tensors(x.node.meta["val"])):
        fix = "with torch.autocast(device_type, enabled=False):  # keep it in float32, with operands .float()"
        tried = _said(in_float32[where.module], before) if where.module in in_float32 else ""
    elif name_of(x.node) in ("sub", "add", "var", "rsub"):
        fix = "A difference of nearly equal numbers: subtract earlier (a mean, a maximum), or use log1p, expm1, var"
    severity = "warning" if x.digits_out < LITTLE else "note"
    numbers = {"lost": x.lost, "digits_in": x.digits_in, "digits_out": x.digits_out}
    return Finding(severity, "digits lost", what, where, tuple(evidence), fix, tried, (), numbers)


def _said(error: float, before: float) -> str:
    change = f"the error of the gradient goes from {before:.1e} to {error:.1e}"
    return f"in float32 {change}" if error < _HELPS * before else f"in float32 it stays: {change}"


def _summary(before: float, in_float32: Mapping[str, float]) -> Finding:
    right = min(16.0, -math.log10(before)) if before > 0 else 16.0
    what = f"{max(right, 0.0):.1f} digits of the gradient are right, beside float64"
    better = [
        (name, error) for name, error in sorted(in_float32.items(), key=lambda pair: pair[1]) if error < _HELPS * before
    ]
    fix, tried = "", ""
    if better:
        fix = f"To keep in float32, best first: {', '.join(repr(name) for name, _ in better)}\n"
        fix += "with torch.autocast(device_type, enabled=False): y = module(x.float())"
        tried = "; ".join(f"{name!r}: the error goes from {before:.1e} to {error:.1e}" for name, error in better)
    severity = "warning" if right < LITTLE else "note"
    numbers = {"gradient_error": before, "in_float32": dict(in_float32)}
    return Finding(severity, "precision of the gradient", what, Where(), (), fix, tried, (), numbers)
