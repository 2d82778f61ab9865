"""What sort of fault it is, by evidence: the operator runs again in float64 on the same operands, and what it met is
looked at, element by element where it is one of elements.

finite in float64, and too large for the dtype       -> overflow (and then: of a recurrence, of the training?)
finite in float64, and not too large for the dtype   -> the kernel is wrong
not finite there either                              -> the mathematics: the edge of a domain, 0/0, inf - inf, ...
"""

from __future__ import annotations

import math

import torch

from memograd.doctor.nan import growth
from memograd.doctor.nan.derivatives import first_derivative, hidden, of_derivative
from memograd.doctor.nan.evidence import Cause
from memograd.doctor.nan.operators import of_operator
from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.replay import Step
from memograd.graph.bindings import name_of


def cause_of(step: Step, producer: Producer) -> Cause:
    """What sort of fault ``producer`` is."""
    if producer.is_input:
        return _of_input(step, producer)
    name = name_of(producer.node.target)
    if producer.is_backward:
        return of_derivative(step, producer, name)
    return hidden(step, producer, name) or of_operator(step, producer, name, producer.node)


def _of_input(step: Step, producer: Producer) -> Cause:
    entry = step.joint.inputs[step.joint.placeholders.index(producer.node)]
    value = "NaN" if producer.tensor.reshape(-1)[producer.position].isnan() else "inf"
    if (
        producer.target not in step.losses
        and entry.kind in ("input", "buffer", "constant")
        and (behind := first_derivative(step, producer))
    ):
        return behind
    bad, total = len(producer.positions), producer.tensor.numel()
    evidence = [f"{bad} of {total} elements of {step.shown(entry.name)!r} are not finite before the step begins"]
    if entry.kind == "cotangent":
        return Cause("not finite behind the model", evidence=(*evidence, "the model's own results are finite"))
    if entry.kind == "parameter":
        if rising := growth.training(step):
            evidence.append(f"{step.trail_of} grew before: {growth.shown(rising)}")
            return Cause("exploding training", evidence=tuple(evidence), numbers={"losses": rising})
        evidence += _before(step)
        if is_lost_in_halves(step, producer):
            evidence.append(
                "float16 has no number as small as an eps of 1e-8: it is 0, and where squares of gradients are 0 too, "
                "Adam divides 0 by 0"
            )
        return Cause(f"{value} in the weights", evidence=tuple(evidence))
    if entry.kind == "buffer":
        return Cause(f"{value} in a buffer", evidence=tuple(evidence))
    rows = _rows(producer)
    return Cause(f"{value} in the data", evidence=(*evidence, *rows))


def _before(step: Step) -> list[str]:
    if not step.number:
        return ["it is the first step"]
    last = f", the last one with {step.trail[-1]:.3g} for {step.trail_of}" if step.trail else ""
    return [
        f"{step.number} step{'s' * (step.number != 1)} before {'were' if step.number != 1 else 'was'} finite{last}",
        "so the update behind it, or who else writes to weights, has made them so",
    ]


def is_lost_in_halves(step: Step, producer: Producer) -> bool:
    """Whether an optimizer that divides by a root and an ``eps`` may have divided by zero: weights in float16."""
    return bool(step.number) and producer.tensor.dtype is torch.float16


def _rows(producer: Producer) -> list[str]:
    """Which samples of a batch are concerned."""
    shape = producer.tensor.shape
    if not shape or producer.tensor.dim() < 2:
        return []
    rows = torch.unique(producer.positions.cpu() // max(1, math.prod(shape[1:]))).tolist()
    return [f"samples {', '.join(map(str, rows[:5]))}{' and others' if len(rows) > 5 else ''} of the batch"]
