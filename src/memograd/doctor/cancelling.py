"""Gradients that cancel: contributions that are large, and a sum that is next to nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from memograd.doctor.patient import NORMS, Patient, name_of, norm, wide
from memograd.doctor.report import Finding
from memograd.findings import listed

# Float32 has 7 digits. What is left of a sum that is 1e-5 of its parts has two right digits, and of one that is 1e-6
# one: Higham, Accuracy and Stability of Numerical Algorithms, section 1.7. Random signs of n parts leave 1/sqrt(n).
CANCELS = 1e-5


def cancelling(patient: Patient) -> list[Finding]:
    """Parameters whose gradient is a sum that cancels: over operators, or over the batch (a bias)."""
    biases: list[Finding] = []
    cancelled: list[tuple[str, fx.Node, float]] = []
    for name, p in patient.parameters.items():
        consumers = patient.consumers(p)
        parts = sum(patient.share(u, p) for u in consumers)
        total = norm(patient.table.get(p))
        if len(consumers) > 1 and parts and total < CANCELS * parts:
            if all(_is_bias(u, p) for u in consumers):
                biases.append(_of_both(patient, name, consumers, total / parts))
                continue
            cancelled.append((patient.named(name), p, total / parts))
        elif p.meta["val"].dim() == 1 and len(consumers) == 1:
            biases += _of_a_bias(patient, name, p, consumers[0])
    if cancelled:
        names, nodes, left = zip(*cancelled, strict=True)
        return [*_one(biases), _of_operators(patient, nodes[0], max(left), names)]
    return [*_one(biases), *_at_values(patient)]


def _is_bias(u: fx.Node, p: fx.Node) -> bool:
    """Whether ``u`` adds ``p``, and nothing else with it."""
    kind = name_of(u)
    added = u.args[2:3] if kind == "convolution" else u.args[:2] if kind == "add" else u.args[:1]
    return p.meta["val"].dim() == 1 and kind in ("addmm", "add", "convolution") and p in added


def _of_both(patient: Patient, name: str, consumers: list[fx.Node], left: float) -> Finding:
    """The last bias of a critic: the difference of two of its results does not know it, and rightly so."""
    what = f"the gradient of the bias {patient.named(name)!r} cancels: {left:.1e} of it is left"
    why = f"it is added {len(consumers)} times, and the loss knows only differences of these results"
    names = (patient.named(name),)
    fix = "nothing, if it is meant so: such a loss does not depend on it"
    return patient.finding("note", "bias without effect", what, consumers[0], "backward", (why,), fix, names, left=left)


def _one(biases: list[Finding]) -> list[Finding]:
    """One note about all of them."""
    if len(biases) < 2:
        return biases
    names = tuple(name for f in biases for name in f.names)
    what = f"the gradients of {len(biases)} biases cancel over the batch: {listed(names)}"
    return [replace(biases[0], what=what, names=names)]


def _at_values(patient: Patient) -> list[Finding]:
    """The same at a value inside, where parameters have but one way: a loss added and subtracted again."""
    for v in reversed(patient.nodes):
        consumers = patient.consumers(v)
        if len(consumers) < 2 or not isinstance(v.meta["val"], torch.Tensor):
            continue
        shares = [patient.share(u, v) for u in consumers]
        if sum(s > 0 for s in shares) > 1 and norm(patient.table[v]) < CANCELS * sum(shares):
            return [_of_operators(patient, v, norm(patient.table[v]) / sum(shares), ())]
    return []


def _of_operators(patient: Patient, v: fx.Node, left: float, names: tuple[str, ...]) -> Finding:
    consumers = patient.consumers(v)
    places = list(dict.fromkeys(u.meta.get("source") or name_of(u) for u in consumers))
    of = f"of {listed(names)}" if names else f"at {name_of(v)}"
    what = f"the gradient {of} is a sum of contributions that cancel: {left:.1e} of them is left"
    evidence = (f"{len(consumers)} come from {', '.join(places[:4])}",)
    fix = "Terms with opposite signs work against each other: a generator and its discriminator in one loss,\n"
    fix += "a loss that is added and subtracted; .detach() the part that is not to be trained by this loss"
    at = consumers[0] if names else v
    return patient.finding("warning", "gradients cancel", what, at, "backward", evidence, fix, names, left=left)


def _of_a_bias(patient: Patient, name: str, p: fx.Node, u: fx.Node) -> list[Finding]:
    adjoint = patient.table.get(u)
    if adjoint is None or isinstance(adjoint, (list, tuple)) or adjoint.numel() <= p.meta["val"].numel():
        return []
    if name_of(u) not in ("addmm", "add", "convolution") or not adjoint.numel():
        return []
    dim = 1 if name_of(u) == "convolution" else adjoint.dim() - 1
    if adjoint.shape[dim] != p.meta["val"].numel():
        return []
    whole = wide(adjoint)
    sizes = whole.abs().sum([d for d in range(whole.dim()) if d != dim])
    total = wide(patient.table[p]).abs()
    if not bool((sizes > 0).all()) or (left := (total / sizes).max().item()) > CANCELS:
        return []
    behind = [v for v in _following(u) if name_of(v).startswith(NORMS)]
    why = (
        f"a {name_of(behind[0])} follows, which subtracts it again"
        if behind
        else "a constant added here changes nothing"
    )
    what = (
        f"the gradient of the bias {patient.named(name)!r} cancels over the batch: {left:.1e} of it is left, rounding"
    )
    fix = "bias=False in the layer in front of a normalisation" if behind else "bias=False, if it is meant so"
    names = (patient.named(name),)
    return [patient.finding("note", "bias without effect", what, u, "backward", (why,), fix, names, left=left)]


def _following(u: fx.Node) -> list[fx.Node]:
    """The operators behind ``u``, past what only changes the shape."""
    operators = []
    for v in u.users:
        operators += _following(v) if name_of(v) in ("view", "reshape", "transpose", "permute", "clone") else [v]
    return operators
