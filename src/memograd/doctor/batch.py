"""What is wrong with the batch: inputs nobody scaled or that are all the same, targets that no output can reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from memograd.doctor.patient import PRODUCTS, Patient, name_of, normalised, rms, wide
from memograd.doctor.report import Finding

# Inputs of variance 1 are what initialisations are made for (LeCun et al. 1998, Efficient BackProp, section 4.3);
# pixels from 0 to 255 have a size of about 150, years one of 2000.
SCALE = 30.0
# The last layer starts with outputs of about 0.5, and a step of Adam moves its bias by the learning rate: with 1e-3 it
# takes 100,000 steps to a target of 100.
TARGET = 100.0
OUT_OF_REACH = 0.01  # share of targets: one in a hundred may be an outlier
_RANGES = {"sigmoid": (0.0, 1.0), "_softmax": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, float("inf"))}
_DISTANCES = frozenset(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "sub"])


def batch(patient: Patient) -> list[Finding]:
    """All of it."""
    return [*_inputs(patient), *_targets(patient)]


def _inputs(patient: Patient) -> Iterator[Finding]:
    """What goes into the first layers, from outside."""
    for u in patient.layers:
        weight = patient.weight_of(u)
        for v in u.all_input_nodes if name_of(u) in PRODUCTS else ():
            value: Any = patient.values[v]
            outside = patient.source_of(v)
            if v in patient.table or outside is weight or outside.op != "placeholder":
                continue
            if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() < 2:
                continue
            if finding := _scale(patient, u, value) or _same(patient, u, value):
                yield finding
                return


def _scale(patient: Patient, u: fx.Node, value: torch.Tensor) -> Finding | None:
    size = rms(value)
    if size <= SCALE or normalised(u):
        return None
    low, high = value.min().item(), value.max().item()
    what = f"what goes into {patient.layer(u)!r} is {size:.3g} in size (from {low:.4g} to {high:.4g})"
    evidence = ("layers are initialised for inputs of mean 0 and variance 1",)
    fix = "x = (x - x.mean()) / x.std(), with mean and std of the training data; pixels: x / 255"
    return patient.finding("warning", "inputs not scaled", what, u, "forward", evidence, fix)


def _same(patient: Patient, u: fx.Node, value: torch.Tensor) -> Finding | None:
    if patient.batch < 4 or len(value) != patient.batch or bool((value != value[:1]).any()):
        return None
    what = f"what goes into {patient.layer(u)!r} is the same for all {patient.batch} samples"
    evidence = (f"between {value.min().item():.4g} and {value.max().item():.4g}",)
    fix = (
        "See the loading of data: whole numbers divided by whole numbers, one sample repeated, a crop outside the image"
    )
    return patient.finding("warning", "inputs all the same", what, u, "forward", evidence, fix)


def _targets(patient: Patient) -> Iterator[Finding]:
    """What a loss of distances compares the output with."""
    for u in patient.nodes:
        if name_of(u) not in _DISTANCES or len(u.all_input_nodes) != 2 or not _in_the_loss(u):
            continue
        output, target = sorted(u.all_input_nodes, key=lambda v: v not in patient.table)
        value: Any = patient.values[target]
        if output not in patient.table or target in patient.table or not value.is_floating_point() or not value.numel():
            continue
        if patient.source_of(target).op != "placeholder":
            continue
        if finding := _beyond(patient, u, patient.source_of(output), value) or _far(patient, u, value):
            yield finding
            return


def _in_the_loss(u: fx.Node) -> bool:
    return u.meta.get("calls", ())[:1] != (("model", 0),) or name_of(u) != "sub"


def _beyond(patient: Patient, u: fx.Node, last: fx.Node, target: torch.Tensor) -> Finding | None:
    kind = name_of(last) if last.op == "call_function" else ""
    if kind not in _RANGES:
        return None
    low, high = _RANGES[kind]
    values = wide(target)
    share = ((values < low - 1e-3) | (values > high + 1e-3)).double().mean().item()
    if share < OUT_OF_REACH:
        return None
    reach = f"{low:g} or more" if high == float("inf") else f"from {low:g} to {high:g}"
    what = f"{share:.0%} of the targets cannot be reached: the model ends with {kind.strip('_')}, which gives {reach}"
    evidence = (f"targets lie between {values.min().item():.4g} and {values.max().item():.4g}",)
    fix = f"Leave the last {kind.strip('_')} out (a number needs none), or scale the targets into that range"
    return patient.finding("error", "targets out of reach", what, u, "forward", evidence, fix, share=share)


def _far(patient: Patient, u: fx.Node, target: torch.Tensor) -> Finding | None:
    if (size := rms(target)) <= TARGET:
        return None
    what = f"targets are {size:.3g} in size (from {target.min().item():.4g} to {target.max().item():.4g})"
    evidence = ("outputs start near 0, and each step moves them by little more than the learning rate",)
    fix = "Train on (target - mean) / std, and undo that behind the model; or start its last bias at the mean"
    return patient.finding("warning", "targets not scaled", what, u, "forward", evidence, fix)
