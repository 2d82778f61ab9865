"""Which operators lose how many digits, forward and backward, beside the same program in float64.

A result has -log10(error) right digits, and an operator can give no more than its operands have, nor more than its
dtype holds. What it gives less it has lost: by cancellation, by a long sum, by steep slopes. Where it computes in half
precision it is tried in float32 on the same step, and what that does to the gradient is said.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from memograd import autocast
from memograd.doctor.patient import Patient, name_of, norm, recursion, tensors, wide
from memograd.doctor.report import Finding, Where
from memograd.doctor.wider import Wider
from memograd.graph.interpreter import called, evaluate
from memograd.inspection.program import Inspected
from memograd.ops import is_random

# Half of a digit is lost by a rounding here or there; what loses a whole one has a reason. With less than one right
# digit a gradient has hardly its sign.
TELLING = 1.0
LITTLE = 1.0
_SHOWN = 8
_TRIED = 4
_HALF = (torch.float16, torch.bfloat16)


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


def precision(patient: Patient, wider: Wider) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about the operators that lose most, and the table of all that lose a digit, worst first."""
    losses = sorted([*_forward(patient, wider), *_backward(patient, wider)], key=lambda x: -x.lost)
    once = {(x.node, x.phase): x for x in reversed(losses)}  # of several operands of a rule the worst
    losses = sorted(once.values(), key=lambda x: -x.lost)
    telling = [x for x in losses if x.lost >= TELLING]
    before = gradient_error(patient.table, wider, patient)
    tried = _tried(patient, wider, telling)
    findings = [_finding(patient, x, tried.get(x.node), before) for x in telling[:_SHOWN]]
    findings.append(_summary(patient, before, tried))
    rows = [{**asdict(_row(patient, x)), "lost": round(x.lost, 2)} for x in losses if x.lost > 0.3]
    return findings, {"gradient_error": before, "operators": rows}


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
    held = -math.log10(torch.finfo(parts[0].dtype).eps)
    apart = norm([wide(a) - wide(b) for a, b in zip(parts, others, strict=True)])
    size = norm(others)
    if not math.isfinite(apart):
        return 0.0
    return held if apart == 0 or size == 0 else min(held, max(0.0, -math.log10(apart / size)))


def _forward(patient: Patient, wider: Wider) -> list[Loss]:
    own = {v: digits(patient.values[v], wider.values[v]) for v in patient.values if v in wider.values}
    return [
        Loss(u, "forward", min([_held(u), *(own[v] for v in u.all_input_nodes)]), own[u])
        for u in patient.graph.nodes
        if math.isfinite(own[u]) and not _is_cast(u)
    ]


def _backward(patient: Patient, wider: Wider) -> list[Loss]:
    found = []
    own = {v: digits(a, wider.table[v]) for v, a in patient.table.items() if v in wider.table}
    values = {v: digits(patient.values[v], wider.values[v]) for v in own}
    for v, out in own.items():
        consumers = [u for u in patient.consumers(v) if u in own]
        if not consumers or not math.isfinite(out):
            continue
        u = max(consumers, key=lambda c: patient.share(c, v))
        given = [own[u], *(values.get(w, math.inf) for w in u.all_input_nodes), _held_by(patient.table[v])]
        if not _is_cast(u):
            found.append(Loss(u, "backward", min(given), out))
    return found


def _is_cast(u: fx.Node) -> bool:
    return name_of(u) == "_to_copy"


def _held(u: fx.Node) -> float:
    return _held_by(u.meta["val"])


def _held_by(value: Any) -> float:
    parts = [t for t in tensors(value) if t.is_floating_point()]
    return min((-math.log10(torch.finfo(t.dtype).eps) for t in parts), default=math.inf)


def gradient_error(table: dict[fx.Node, Any], wider: Wider, patient: Patient) -> float:
    """The error of all gradients together, as a share of their norm."""
    apart = size = 0.0
    for p in patient.parameters.values():
        exact = wider.table.get(p)
        if exact is not None:
            mine = table.get(p)
            apart += norm(wide(mine) - wide(exact) if mine is not None else exact) ** 2
            size += norm(exact) ** 2
    return math.sqrt(apart / size) if size else 0.0


# -- what float32 would change -----------------------------------------------------------------------------------------


def _tried(patient: Patient, wider: Wider, telling: list[Loss]) -> dict[fx.Node, float]:
    """The error of the gradient with each of the worst operators of half precision computed in float32."""
    half = [x.node for x in telling if any(t.dtype in _HALF for t in tensors(x.node.meta["val"]))]
    tried: dict[fx.Node, float] = {}
    for node in dict.fromkeys(half[:_TRIED]):
        table = _with_float32(patient, {node})
        if table is not None:
            tried[node] = gradient_error(table, wider, patient)
    return tried


def _with_float32(patient: Patient, chosen: Collection[fx.Node]) -> dict[fx.Node, Any] | None:
    """The adjoints with ``chosen`` computed in float32 from what its operands were before they were cast, or None."""
    graph = patient.graph
    inside = Inspected(patient.inspected.program, graph, patient.inspected.wrt)
    values: dict[fx.Node, Any] = {}

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        if is_random(node):
            return patient.values[node]
        if node not in chosen:
            return called(node, args, kwargs)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda v: _before_cast(v, patient.values))
        out = called(node, args, kwargs)
        return out.to(node.meta["val"].dtype) if isinstance(out, torch.Tensor) else out

    try:
        with torch.no_grad(), autocast.off():
            values = evaluate(graph, patient.flat, call)
            return recursion(inside, values)[0]
    except (RuntimeError, TypeError):  # an operator that takes no two dtypes, or none but its own
        return None


def _before_cast(v: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """The value of ``v`` in float32: without the cast that made it short, where one did."""
    if v.op == "call_function" and _is_cast(v) and len(v.all_input_nodes) == 1:
        v = v.all_input_nodes[0]
    value = values[v]
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALF else value


# -- words -------------------------------------------------------------------------------------------------------------


def _finding(patient: Patient, x: Loss, kept: float | None, before: float) -> Finding:
    what = f"{name_of(x.node)} loses {x.lost:.1f} of {x.digits_in:.1f} digits in the {x.phase} pass"
    evidence = [f"{x.digits_out:.1f} digits are right behind it, beside float64"]
    fix = tried = ""
    dtype = next((t.dtype for t in tensors(x.node.meta["val"])), torch.float32)
    if dtype in _HALF:
        fix = "with torch.autocast(device_type, enabled=False):  # keep it in float32, with operands .float()"
        tried = _said(kept, before)
    elif name_of(x.node) in ("sub", "add", "var", "rsub"):
        fix = "A difference of nearly equal numbers: subtract earlier (a mean, a maximum), or use log1p, expm1, var"
    severity = "warning" if x.digits_out < LITTLE else "note"
    where = patient.where(x.node, x.phase)
    numbers = {"lost": x.lost, "digits_in": x.digits_in, "digits_out": x.digits_out}
    return Finding(severity, "digits lost", what, where, tuple(evidence), fix, tried, (), numbers)


def _said(kept: float | None, before: float) -> str:
    if kept is None:
        return ""
    change = f"the error of the gradient goes from {before:.1e} to {kept:.1e}"
    return f"in float32 {change}" if kept < 0.9 * before else f"in float32 it stays: {change}"


def _summary(patient: Patient, before: float, tried: dict[fx.Node, float]) -> Finding:
    right = min(16.0, -math.log10(before)) if before > 0 else 16.0
    what = f"{max(right, 0.0):.1f} digits of the gradient are right, beside float64"
    better = [u for u, error in sorted(tried.items(), key=lambda pair: pair[1]) if error < 0.9 * before]
    fix = ""
    if better:
        places = ", ".join(f"{name_of(u)} ({patient.layer(u)})" for u in better)
        fix = f"To keep in float32, best first: {places}"
    severity = "warning" if right < LITTLE else "note"
    return Finding(severity, "precision of the gradient", what, Where(), (), fix, "", (), {"gradient_error": before})
