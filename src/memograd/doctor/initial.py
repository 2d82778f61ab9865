"""Faults of initialisation: units that are copies of one another, weights far too large."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import fx

from memograd.doctor.patient import PRODUCTS, Patient, name_of, normalised, rms, spelled, tensors, wide
from memograd.doctor.report import Finding
from memograd.doctor.zeros import is_zero

# A layer multiplies the size of what goes through by rms(weight) * sqrt(fan_in): 1 for Xavier, 1.41 for He, 0.58 for
# PyTorch's default. Weights of torch.randn give sqrt(fan_in), 16 for 256 inputs (He et al. 2015, section 2.2: anything
# but 1 is taken to the power of the depth). Trained weights reach 2 or 3.
LARGE = 5.0
_SAME = 1e-6


def initialisation(patient: Patient) -> list[Finding]:
    """Of the weights of layers."""
    once = {weight: u for u in reversed(patient.layers) if (weight := patient.weight_of(u)) is not None}
    copies = []
    for weight, u in reversed(once.items()):
        if name_of(u) in PRODUCTS:
            copies += _copies(patient, weight, u)
    return [*copies, *(() if copies else _too_large(patient, once))]


def _name(patient: Patient, weight: fx.Node) -> str:
    return next(patient.named(n) for n, p in patient.parameters.items() if p is weight)


def _copies(patient: Patient, weight: fx.Node, u: fx.Node) -> list[Finding]:
    """All units start with the same weights and get the same gradient: they stay copies for ever."""
    value, gradient = patient.values[weight], patient.table.get(weight)
    some = wide(value[:2]), wide(value[:, :2])  # which are enough for nearly all weights
    if gradient is None or len(value) < 2 or (_differ(some[0]) and _differ(some[1].transpose(0, 1))):
        return []
    if is_zero(gradient):
        return []
    w, g = wide(value), wide(gradient)
    transposed = bool(_differ(w)) and w.dim() == 2  # (in, out), where somebody multiplies x @ w
    if transposed:
        w, g = w.T, g.T
    if len(w) < 2 or _differ(w) or _differ(g):
        return []
    name, value = _name(patient, weight), w.flatten()[0].item()
    same = "" if _differ(w.reshape(1, -1).T) else f" (all {value:.4g})"
    what = f"the {len(w)} units of {name!r} have the same weights{same} and get the same gradient: they stay copies"
    evidence = ("the layer can express no more than one unit could, however long it is trained",)
    fix = f"nn.init.kaiming_normal_({spelled(name)}): random weights (constants are for biases and normalisations only)"
    return [patient.finding("error", "all units the same", what, u, "backward", evidence, fix, (name,))]


def _differ(rows: torch.Tensor) -> bool:
    """Whether not all rows are the same."""
    return bool((rows - rows[:1]).abs().max() > _SAME * rows.abs().max())


def _too_large(patient: Patient, layers: Mapping[fx.Node, fx.Node]) -> list[Finding]:
    """One finding about all weights that are."""
    large: list[tuple[float, fx.Node, fx.Node]] = []
    for weight, u in layers.items():
        value = patient.values[weight]
        factor = rms(value) * math.sqrt(_fan_in(value, u)) if name_of(u) in PRODUCTS else 0.0
        if factor > LARGE and not normalised(u):
            large.append((factor, weight, u))
    if not large:
        return []
    factor, weight, u = max(large, key=lambda one: one[0])
    names = tuple(_name(patient, w) for _, w, _ in reversed(large))
    value, fan_in = patient.values[weight], _fan_in(patient.values[weight], u)
    what = f"{_name(patient, weight)!r} multiplies the size of what goes through by about {factor:.3g}"
    evidence = (
        f"rms {rms(value):.3g} times sqrt(fan_in = {fan_in}); Xavier gives 1, He 1.41, PyTorch's layers 0.58",
        f"what comes out is {rms(tensors(patient.values[u])[0]):.3g} in size",
    )
    fix = f"nn.init.kaiming_normal_({spelled(_name(patient, weight))}), or torch.randn(n, m) / math.sqrt(n)"
    return [patient.finding("warning", "weights too large", what, u, "forward", evidence, fix, names, factor=factor)]


def _fan_in(value: torch.Tensor, u: fx.Node) -> int:
    """How many numbers a unit adds up; of a matrix that is applied as ``x @ w`` its first dimension."""
    if value.dim() == 2:
        data = next(
            (v for v in u.all_input_nodes if v.meta["val"].dim() > 1 and v.meta["val"].shape != value.shape), None
        )
        inner = data.meta["val"].shape[-1] if data is not None else value.shape[1]
        return inner if inner in value.shape else value.shape[1]
    return value[0].numel()
