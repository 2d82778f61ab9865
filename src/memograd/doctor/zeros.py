"""Gradients that are exactly zero: at which operator the adjoint ends, because its factor there is zero.

adjoint(u) is not zero, and what u passes back to v is: that factor of the chain rule is the one. Walking from each
parameter without a gradient towards the loss, the first such operator is the one to name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from memograd.doctor.patient import Patient, name_of, spelled, tensors
from memograd.doctor.report import Finding
from memograd.findings import listed

RECTIFIERS = frozenset(
    ["relu", "threshold", "clamp", "clamp_min", "clamp_max", "hardtanh", "hardswish", "maximum", "minimum"]
)
SQUASHING = frozenset(["sigmoid", "tanh", "hardsigmoid"])
SOFTMAX = frozenset(["_softmax", "_log_softmax"])
PRODUCTS = frozenset(["mul", "mm", "addmm", "bmm", "baddbmm", "convolution", "addcmul", "mv", "dot"])


def is_zero(adjoint: Any) -> bool:
    """Whether nothing flows, through what could carry something."""
    parts = [t for t in tensors(adjoint) if t.numel()]
    return bool(parts) and not any(bool(t.count_nonzero()) for t in parts)


def blamed(patient: Patient) -> dict[fx.Node, list[str]]:
    """The operators at which adjoints become zero, and the parameters that have no other way to the loss."""
    names_by_operator: dict[fx.Node, list[str]] = {}
    silent = {v for v, a in patient.table.items() if is_zero(a)}
    for name, p in patient.parameters.items():
        for u, v in _frontier(patient, p, silent) if p in silent else ():
            names = names_by_operator.setdefault(_at_fault(patient, u, v), [])
            if patient.named(name) not in names:
                names.append(patient.named(name))
    return names_by_operator


def _frontier(patient: Patient, p: fx.Node, silent: set[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
    """From ``p`` through what is silent to the operators that something still reaches, the nearest ones, each with the
    operand to which it passes nothing."""
    waiting, visited, frontier = [p], {p}, []
    while waiting:
        v = waiting.pop()
        for u in patient.consumers(v):
            if u not in silent:
                if not patient.share(u, v):  # else what reaches ``v`` cancels there (``cancelling.py``)
                    frontier.append((u, v))
            elif u not in visited:
                visited.add(u)
                waiting.append(u)
    return frontier


def _at_fault(patient: Patient, u: fx.Node, v: fx.Node) -> fx.Node:
    """``u``; of a product whose other factor is zero because a rectifier is off everywhere, that rectifier."""
    zero = zero_factor(patient, u, v) if name_of(u) in PRODUCTS else None
    if zero is None or (origin := patient.source_of(zero)) not in patient.table or origin.op != "call_function":
        return u
    inside = patient.values[origin.all_input_nodes[0]]
    if name_of(origin) in RECTIFIERS and bool(inside.count_nonzero()):  # else zeros go in: somebody else's fault
        return origin
    return origin if name_of(origin) in PRODUCTS and zero_factor(patient, origin) is not None else u


def zero_gradients(patient: Patient) -> list[Finding]:
    """One finding for each operator to blame; rectifiers and squashing functions have detectors of their own."""
    if float(patient.values[patient.loss]) == 0 and not any(_times_zero(u) for u in patient.nodes):
        return _loss_is_zero(patient)
    findings = []
    for u, names in blamed(patient).items():
        if name_of(u) not in RECTIFIERS | SQUASHING:
            findings.append(_finding(patient, u, tuple(names)))
    return findings


def _loss_is_zero(patient: Patient) -> list[Finding]:
    constant = [u for u in patient.nodes if name_of(u) in SOFTMAX and _classes(u) == 1]
    if constant:
        return [_one_class(patient, constant[-1], ())]
    if blamed(patient):
        what = "the loss is exactly 0 on this batch, and so is every gradient behind it: nothing is left to learn here"
        return [patient.finding("note", "loss is zero", what, patient.loss, fix="Diagnose another batch")]
    return []


def _classes(u: fx.Node) -> int:
    dim: Any = u.args[1]
    shape = u.meta["val"].shape
    return shape[dim] if len(shape) else 1


def _one_class(patient: Patient, u: fx.Node, names: tuple[str, ...]) -> Finding:
    shape = tuple(u.meta["val"].shape)
    what = f"a softmax over dimension {u.args[1]} of shape {shape}, which holds 1 number, is 1 whatever the model says"
    evidence = ("its derivative is zero: the loss is constant and no gradient comes back",)
    fix = "For one output: nn.BCEWithLogitsLoss() (two classes) or nn.MSELoss() (a number), without a softmax;\n"
    fix += "for C classes: nn.Linear(..., C) and nn.CrossEntropyLoss()"
    return patient.finding("error", "softmax over one class", what, u, evidence=evidence, fix=fix, names=names)


def _finding(patient: Patient, u: fx.Node, names: tuple[str, ...]) -> Finding:
    kind = name_of(u)
    if kind in SOFTMAX and _classes(u) == 1:
        return _one_class(patient, u, names)
    if "norm" in kind and (alone := _normalises_one(u)):
        return _one_number(patient, u, alone, names)
    if _times_zero(u):
        what = f"this multiplies by the number 0: {listed(names)} get{'s' * (len(names) == 1)} no gradient"
        return patient.finding("error", "zero factor", what, u, "backward", (), "See why the factor is 0", names)
    zero = zero_factor(patient, u)
    if zero is not None and (kind in PRODUCTS or patient.source_of(zero) in patient.trained):
        return _multiplied_by_zero(patient, u, zero, names)
    what = f"the gradient becomes exactly zero at {kind}: {listed(names)} get{'s' * (len(names) == 1)} no signal"
    evidence = (f"the adjoint that reaches {kind} is not zero, what it passes back is: its derivative is zero here",)
    fix = "Look at the values that go in there: is a mask empty, a value clamped, a choice always the same?"
    return patient.finding("error", "zero gradient", what, u, "backward", evidence, fix, names)


def zero_factor(patient: Patient, u: fx.Node, v: fx.Node | None = None) -> fx.Node | None:
    """The operand of a product, besides ``v``, that is zero everywhere; a weight before other values."""
    zeros = []
    for operand in u.all_input_nodes:
        value = patient.values[operand]
        if operand is v or _is_added(u, operand):
            continue
        if isinstance(value, torch.Tensor) and value.numel() and not bool(value.count_nonzero()):
            zeros.append(operand)
    return next((z for z in zeros if patient.source_of(z) in patient.trained), zeros[0] if zeros else None)


def _times_zero(u: fx.Node) -> bool:
    return name_of(u) == "mul" and any(isinstance(a, (int, float)) and a == 0 for a in u.args)


def _normalises_one(u: fx.Node) -> tuple[int, ...]:
    """The shape of what a normalisation gets, if each of its means is over one number only."""
    shape = tuple(u.all_input_nodes[0].meta["val"].shape)
    means = u.meta["val"][1] if isinstance(u.meta["val"], (tuple, list)) else None
    total = u.all_input_nodes[0].meta["val"].numel()
    return shape if isinstance(means, torch.Tensor) and means.numel() == total > 0 else ()


def _one_number(patient: Patient, u: fx.Node, shape: tuple[int, ...], names: tuple[str, ...]) -> Finding:
    what = f"this normalisation of shape {shape} is over one number at a time: the number minus itself is 0"
    evidence = ("whatever goes in, zeros come out, and so does no gradient",)
    fix = "Normalise over more than one number: LayerNorm over features, BatchNorm with batches of more than one sample"
    return patient.finding("error", "normalised away", what, u, "backward", evidence, fix, names)


def _all_dropped(patient: Patient, u: fx.Node) -> str | None:
    """A dropout layer that this product belongs to, if its probability is 1."""
    program, path = patient.inspected.program, u.meta.get("module") or ""
    try:
        layer = program.get_submodule(path) if isinstance(program, nn.Module) else None
    except AttributeError:
        return None
    if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p >= 1:
        return f"{type(layer).__name__}(p={layer.p})"
    return None


def _is_added(u: fx.Node, operand: fx.Node) -> bool:
    """Whether the operator adds this operand, and does not multiply by it."""
    kind = name_of(u)
    if kind in ("addmm", "baddbmm", "addcmul"):
        return operand is u.args[0]
    return operand in u.args[2:3] and (kind == "convolution" or "norm" in kind)


def _multiplied_by_zero(patient: Patient, u: fx.Node, zero: fx.Node, names: tuple[str, ...]) -> Finding:
    root = patient.source_of(zero)
    own = next((patient.named(n) for n, p in patient.parameters.items() if p is root), "")
    if own and not is_zero(patient.table.get(root)):
        # A gate, a LoRA factor or the last layer of a branch that starts at zero: it opens by its own gradient.
        what = f"{own!r} is zero and will move: until then {listed(names)} get{'s' * (len(names) == 1)} no gradient"
        return patient.finding("note", "starts at zero", what, u, names=names)
    if own:
        what = f"{own!r} is zero everywhere and gets no gradient either: it and what is behind it stay as they are"
        evidence = ("both factors of a product are zero, so both derivatives are: nothing here ever moves",)
        fix = f"nn.init.kaiming_normal_({spelled(own)}) (zeros are for biases, not for two layers in a row)"
        return patient.finding("error", "zero initialisation", what, u, "backward", evidence, fix, (own, *names))
    made_here = not patient.source_of(zero).all_input_nodes and patient.source_of(zero).op == "call_function"
    if made_here and patient.weight_of(u) is not None:
        what = f"{listed(names)} get{'s' * (len(names) == 1)} no gradient here: a state that starts at zero meets it"
        return patient.finding("note", "state of zeros", what, u, names=names)
    if (p := _all_dropped(patient, u)) is not None:
        what = f"{p} drops everything: {listed(names)} get{'s' * (len(names) == 1)} no gradient"
        fix = "a probability below 1; 0.1 to 0.5 is usual"
        return patient.finding("error", "zero factor", what, u, "backward", (), fix, names)
    what = f"a factor of this product is zero everywhere: {listed(names)} get{'s' * (len(names) == 1)} no gradient"
    evidence = (f"{name_of(zero)} gives zeros only, and the derivative of a product is the other factor",)
    where = zero.meta.get("source") or ""
    fix = (
        f"See why it is zero (it is computed at {where})" if where else "See why it is zero: an empty mask, a weight 0?"
    )
    return patient.finding("error", "zero factor", what, u, "backward", evidence, fix, names)
