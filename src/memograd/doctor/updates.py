"""What the optimizer makes of the gradients: whom it moves at all, and how far compared with the weights.

The optimizer takes one real step on our gradients, and everything is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn, optim

from memograd.doctor.patient import Patient, rms, wide
from memograd.doctor.report import Finding, Where
from memograd.findings import listed
from memograd.tracing.undisturbed import Contents

# "This ratio should be somewhere around 1e-3" (CS231n, Neural Networks Part 3, ratio of weights and updates). The first
# steps of Adam move each weight by the learning rate, so 1e-3 is 0.05 of weights of 0.02: ten times and a hundred
# times around the rule are normal. 0.1 at the median weight is not: ten such steps replace the weights.
LARGE, REPLACED = 0.1, 1.0
# A thousand times below the rule; and a step of 6e-8 times a weight is the last digit of float32.
SMALL = 1e-6
LOST = 0.5  # share of elements with a gradient that the step leaves where they were


@dataclass(frozen=True)
class Update:
    """One parameter before and after a step. ``lost``: the share of its elements that have a gradient and stayed."""

    name: str
    ratio: float
    lost: float
    matrix: bool
    dtype: torch.dtype


def held_by(optimizer: optim.Optimizer) -> dict[int, torch.Tensor]:
    """The tensors that an optimizer moves, by id."""
    return {id(p): p for group in optimizer.param_groups for p in group["params"]}


def stepped(patient: Patient, optimizer: optim.Optimizer) -> list[Update]:
    """One step of the optimizer on the gradients of ``patient``; afterwards everything is as it was."""
    with as_it_was(optimizer):
        before = {name: wide(p).clone() for name, p in patient.tensors.items()}
        hand_over(patient, optimizer)
        optimizer.step()
        moves = []
        for name, w in before.items():
            gradient, p = patient.gradient(name), patient.tensors[name]
            if gradient is None or id(p) not in held_by(optimizer):
                continue
            moved, has = wide(p) - w, wide(gradient) != 0
            if not bool(has.any()):
                continue
            lost = (moved[has] == 0).double().mean().item()
            size = rms(w)
            ratio = rms(moved) / size if size else float("nan")
            moves.append(Update(patient.named(name), ratio, lost, w.dim() > 1, p.dtype))
    return moves


def hand_over(patient: Patient, optimizer: optim.Optimizer) -> None:
    """Our gradients as ``.grad`` of what the optimizer holds."""
    for p in held_by(optimizer).values():
        p.grad = None
    for name, p in patient.tensors.items():
        gradient = patient.gradient(name)
        if gradient is not None:
            dense = gradient.to_dense() if gradient.layout is not torch.strided else gradient
            p.grad = dense.detach().clone().to(p.dtype)


@contextmanager
def as_it_was(optimizer: optim.Optimizer) -> Iterator[None]:
    """What an optimizer's step changes is put back: parameters, their ``.grad``, its state."""
    parameters = list(held_by(optimizer).values())
    state = {p: dict(s) for p, s in optimizer.state.items()}
    inner = [t for s in state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    contents = Contents([*parameters, *inner])
    gradients = [(p, p.grad) for p in parameters]
    groups = [{k: copy.copy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    try:
        yield
    finally:
        contents.put_back()
        for p, gradient in gradients:
            p.grad = gradient
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            group.update(saved)


def updates(patient: Patient, optimizer: optim.Optimizer) -> list[Finding]:
    """Everything that is wrong with the step of ``optimizer``."""
    findings = mismatched(patient, optimizer)
    try:
        moved = stepped(patient, optimizer)
    except (TypeError, RuntimeError) as error:  # LBFGS wants a closure; a fused one another device
        said = next(iter(str(error).splitlines()), "")
        what = f"{type(optimizer).__name__}.step() could not be tried: {type(error).__name__}: {said}"
        return [*findings, Finding("note", "updates not looked at", what)]
    return [*findings, *_sizes(optimizer, moved)]


def _sizes(optimizer: optim.Optimizer, moved: list[Update]) -> Iterator[Finding]:
    rates = sorted({float(g["lr"]) for g in optimizer.param_groups if "lr" in g})
    rate = f"{type(optimizer).__name__} with lr={', '.join(f'{r:.3g}' for r in rates)}"
    if rates and not any(rates):
        what = "the learning rate is 0: no step changes anything"
        yield Finding("warning", "learning rate is zero", what, fix="Set lr; with a warm-up, step the scheduler first")
    elif lost := _lost(moved, rate):
        yield lost
    else:
        yield from _ratios(moved, rate)


def _lost(moved: list[Update], rate: str) -> Finding | None:
    """Most updates, rounded away."""
    lost = [u for u in moved if u.lost > LOST and u.dtype in (torch.float16, torch.bfloat16)]
    if not lost or len(lost) * 2 < len(moved):
        return None
    worst = max(lost, key=lambda u: u.lost)
    kind = str(worst.dtype).removeprefix("torch.")
    what = f"{worst.lost:.0%} of {worst.name!r} have a gradient and stay where they are: {kind} rounds the update away"
    evidence = (f"{rate}; {kind} keeps {_digits(worst.dtype)} digits, and w - update is w again below that",)
    fix = "Keep the weights in float32 and compute in lower precision: torch.autocast(dtype=torch.bfloat16);\n"
    fix += "or a larger learning rate"
    names = tuple(u.name for u in lost)
    severity = "error" if worst.lost > 0.9 else "warning"
    return Finding(severity, "updates lost to rounding", what, Where(phase="update"), evidence, fix, "", names)


def _ratios(moved: list[Update], rate: str) -> Iterator[Finding]:
    """Updates that are large or small beside the weights."""
    weights = [u for u in moved if u.matrix and u.ratio == u.ratio] or [u for u in moved if u.ratio == u.ratio]
    if not weights:
        return
    middle = median(u.ratio for u in weights)
    ordered = sorted(weights, key=lambda u: u.ratio)
    evidence = (
        f"smallest {ordered[0].ratio:.1e} ({ordered[0].name}), largest {ordered[-1].ratio:.1e} ({ordered[-1].name})",
        f"by {rate}; about 1e-3 is usual",
    )
    numbers = {"ratios": {u.name: u.ratio for u in moved}}
    if middle > LARGE:
        what = f"one step moves a weight by {middle:.2g} of its own size (the median)"
        severity = "error" if middle > REPLACED else "warning"
        fix = f"A learning rate about {float(f'{middle / 1e-2:.0g}'):.0f} times smaller, or a warm-up"
        yield Finding(severity, "updates too large", what, Where(phase="update"), evidence, fix, "", (), numbers)
    elif middle < SMALL:
        what = f"one step moves a weight by {middle:.1e} of its own size (the median): it hardly learns"
        fix = "A larger learning rate; or see why gradients are small (a loss scaled down, a mean over padding)"
        yield Finding("warning", "updates too small", what, Where(phase="update"), evidence, fix, "", (), numbers)


def _digits(dtype: torch.dtype) -> str:
    return f"{-torch.log10(torch.tensor(torch.finfo(dtype).eps)).item():.1f}"


def mismatched(patient: Patient, optimizer: optim.Optimizer) -> list[Finding]:
    """The optimizer holds other tensors than those that get gradients."""
    held = held_by(optimizer)
    program = patient.inspected.program
    model = {id(p): p for p in program.parameters()} if isinstance(program, nn.Module) else {}
    missing = {n: p for n, p in patient.tensors.items() if id(p) not in held and (id(p) in model or not model)}
    strangers = [p for k, p in held.items() if k not in model] if model else []
    if not missing:
        return []
    names = tuple(patient.named(n) for n in missing)
    name = type(optimizer).__name__
    stale = [p for p in strangers if any(p.shape == q.shape for q in missing.values())]
    total = len(patient.tensors)
    if stale or len(missing) == total:
        what = f"{name} does not hold {len(missing)} of the {total} parameters that get a gradient: {listed(names)}"
        evidence = [f"it holds {len(held)} tensors, {len(strangers)} of which are not this model's"]
        if stale:
            evidence.append("some have the same shape: parameters of another copy, or of before they were replaced")
        fix = "Make the optimizer after the model is complete (after .to(), after a layer is replaced):\n"
        fix += f"optimizer = torch.optim.{name}(model.parameters(), lr=...)"
        return [
            Finding("error", "optimizer holds others", what, Where(phase="update"), tuple(evidence), fix, "", names)
        ]
    what = (
        f"{name} does not hold {listed(names)}, which get a gradient: {'it stays' if len(names) == 1 else 'they stay'}"
    )
    fix = "optimizer.add_param_group({'params': ...}), or requires_grad_(False) if this is meant"
    return [Finding("warning", "not in the optimizer", what, Where(phase="update"), (), fix, "", names)]
