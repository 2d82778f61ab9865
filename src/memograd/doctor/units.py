"""Dead units: rectifiers that are off for every sample of the batch. Nothing flows back through them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.doctor import zeros
from memograd.doctor.patient import Patient, name_of
from memograd.doctor.report import Finding
from memograd.findings import Severity, listed

# "as much as 40 % of your network can be dead if the learning rate is set too high" (CS231n, notes on commonly used
# activation functions). At He's initialisation a unit is off for one sample with probability 1/2, so for 8 independent
# ones with 1/256: with fewer samples nothing can be said.
MANY = 0.4
SAMPLES = 8
_SHOWN = 12  # units that a line of text names


@dataclass(frozen=True)
class Layer:
    """A rectifier in the forward pass: which of its units are off for the whole batch."""

    node: fx.Node
    dead: torch.Tensor  # one truth value for each unit
    samples: int

    @property
    def share(self) -> float:
        return self.dead.double().mean().item()


def layers(patient: Patient) -> Iterator[Layer]:
    """The rectifiers that an adjoint comes to."""
    for u in patient.nodes:
        value = patient.values[u]
        if name_of(u) in ("relu", "threshold", "hardtanh", "clamp", "clamp_min") and isinstance(value, torch.Tensor):
            off = _off(patient, u, value)
            if off is not None and value.dim() > 1 and value.numel():
                dim = _unit_dimension(u)
                others = [d for d in range(value.dim()) if d != dim]
                dead = off.permute(dim, *others).reshape(value.shape[dim], -1).all(1)
                yield Layer(u, dead, value.numel() // max(value.shape[dim], 1))


def _off(patient: Patient, u: fx.Node, value: torch.Tensor) -> torch.Tensor | None:
    """Where the derivative is zero below; None where the operator rectifies nothing."""
    limits: Any = u.args[1:]
    if name_of(u) == "threshold":
        return patient.values[u.all_input_nodes[0]] <= limits[0]
    if name_of(u) == "relu":
        return value <= 0
    low = limits[0] if limits else u.kwargs.get("min", -1 if name_of(u) == "hardtanh" else None)
    return value <= 0 if isinstance(low, (int, float)) and low == 0 else None


def _unit_dimension(u: fx.Node) -> int:
    """Channels of images (the second dimension behind convolutions and their normalisation), features elsewhere."""
    v = u.all_input_nodes[0]
    for _ in range(6):
        kind = name_of(v)
        if "conv" in kind or "batch_norm" in kind or "group_norm" in kind:
            return 1
        if kind in ("addmm", "mm", "bmm", "baddbmm", "native_layer_norm") or not v.all_input_nodes:
            break
        v = v.all_input_nodes[0]
    return 1 if u.meta["val"].dim() == 4 else u.meta["val"].dim() - 1


def dead_units(patient: Patient) -> list[Finding]:
    """Layers with many dead units; an error where all are, and what is behind gets no gradient at all."""
    behind = zeros.blamed(patient)
    findings = []
    for layer in layers(patient):
        names = tuple(behind.get(layer.node, ()))
        dead, total = int(layer.dead.sum()), len(layer.dead)
        if dead == total and (names or layer.samples >= SAMPLES):
            findings.append(_all_dead(patient, layer, names))
        elif layer.share >= MANY and layer.samples >= SAMPLES:
            what = (
                f"{dead} of {total} units ({layer.share:.0%}) are off for all {layer.samples} samples: {_which(layer)}"
            )
            findings.append(_finding(patient, "warning", layer, what, ()))
    satisfied = float(patient.values[patient.loss]) == 0  # a margin that is kept: its loss is flat, as it should be
    for u, names in behind.items():
        if not satisfied and name_of(u) in zeros.RECTIFIERS and not any(f.where == patient.where(u) for f in findings):
            findings.append(_flat(patient, u, tuple(names)))
    return findings


def _all_dead(patient: Patient, layer: Layer, names: tuple[str, ...]) -> Finding:
    total = len(layer.dead)
    what = f"all {total} units are off for all {layer.samples} samples: the gradient ends here"
    what += f", {listed(names)} get{'s' * (len(names) == 1)} none" if names else ""
    return _finding(patient, "error", layer, what, names)


def _finding(patient: Patient, severity: Severity, layer: Layer, what: str, names: tuple[str, ...]) -> Finding:
    u = layer.node
    inside = patient.values[u.all_input_nodes[0]].float()
    evidence = [f"what goes in: largest {inside.max().item():.3g}, mean {inside.mean().item():.3g}"]
    bias = _bias_below(patient, u)
    if bias:
        evidence.append(bias)
    fix = "nn.LeakyReLU(0.01) or nn.GELU(); a smaller learning rate; nn.init.kaiming_normal_ for weights and zero for\n"
    fix += "biases in front of it; inputs of mean 0 and variance 1"
    numbers = {
        "dead": int(layer.dead.sum()),
        "units": len(layer.dead),
        "which": layer.dead.nonzero().flatten().tolist(),
    }
    return patient.finding(severity, "dead units", what, u, "forward", evidence, fix, names, **numbers)


def _bias_below(patient: Patient, u: fx.Node) -> str:
    """A bias that is far below zero explains it."""
    layer = u.all_input_nodes[0]
    for v in layer.all_input_nodes:
        root = patient.source_of(v)
        if root in patient.trained and root.meta["val"].dim() == 1:
            mean = patient.values[root].float().mean().item()
            name = next(patient.named(n) for n, p in patient.parameters.items() if p is root)
            return f"the bias {name!r} in front of it is {mean:.3g} on average" if mean < -0.5 else ""
    return ""


def _which(layer: Layer) -> str:
    some = layer.dead.nonzero().flatten().tolist()
    return ", ".join(map(str, some[:_SHOWN])) + (f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else "")


def _flat(patient: Patient, u: fx.Node, names: tuple[str, ...]) -> Finding:
    """A clamp, or a maximum with a constant, that lies outside its slope everywhere."""
    kind = name_of(u)
    inside = patient.values[u.all_input_nodes[0]].float()
    limits = ", ".join(str(a) for a in u.args[1:] if isinstance(a, (int, float)))
    what = (
        f"{kind}({limits}) is at its limit for every element: {listed(names)} get{'s' * (len(names) == 1)} no gradient"
    )
    evidence = (f"what goes in lies between {inside.min().item():.4g} and {inside.max().item():.4g}",)
    fix = "Widen the limits, scale what goes in, or use a smooth limit (a scaled tanh or sigmoid, softplus)"
    return patient.finding("error", "clamped everywhere", what, u, "forward", evidence, fix, names)
