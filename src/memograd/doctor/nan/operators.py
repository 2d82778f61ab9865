"""Faults of operators of the forward pass, and what an overflow comes from."""

from __future__ import annotations

import math

import torch
from torch import fx

from memograd.doctor.nan import growth
from memograd.doctor.nan.evidence import (
    DIVISIONS,
    NORMALIZATIONS,
    NORMS,
    PRODUCTS,
    SOFTMAXES,
    SOLVERS,
    SPREADS,
    Cause,
    element,
    in_float64,
    plain,
    said,
)
from memograd.doctor.nan.producer import Producer, is_written, way
from memograd.doctor.nan.replay import Step
from memograd.doctor.probes import largest_of, tensors_in

READ_MASK = "infinity of a mask"


def of_operator(step: Step, producer: Producer, name: str, forward: fx.Node) -> Cause:
    if (special := _special(producer, name, forward)) is not None:
        return special
    if producer.written is None and is_written(forward) and producer.tensor.reshape(-1)[producer.position].isinf():
        return _read_mask(step, producer, name, forward)
    wide = in_float64(producer)
    if wide is None:
        return Cause(edge(name, producer), name, forward, (said(producer, name),))
    exact = element(wide, producer)
    if math.isfinite(exact):
        return too_large(step, producer, name, forward, exact)
    evidence = [said(producer, name), f"in float64 it is {exact:g} too: no matter of precision"]
    if name in ("exp", "exp2", "expm1", "cosh", "sinh", "pow", "square") and _only_large(producer):
        return growing(step, producer, Cause("overflow", name, forward, tuple(evidence)))
    return Cause(edge(name, producer), name, forward, tuple(evidence))


def _read_mask(step: Step, producer: Producer, name: str, forward: fx.Node) -> Cause:
    """An infinity that was written down on purpose, and that no softmax or choice takes out again."""
    own = forward.meta.get("source")
    readers = [n for n in way(producer) if n.meta.get("source") not in (None, own) and "adjoint_of" not in n.meta]
    evidence = [said(producer, name), "nothing takes it out again: it is added up with the rest"]
    if readers:
        line = (readers[0].meta.get("line") or "").strip()
        evidence.append(f"it is read at {readers[0].meta['source']} ({line})")
    return Cause(READ_MASK, name, forward, tuple(evidence))


def _special(producer: Producer, name: str, forward: fx.Node) -> Cause | None:
    """Faults that one operator alone has."""
    first = next(iter(tensors_in(producer.args)), None)
    if name in SOFTMAXES and producer.written is not None:
        where = producer.written.meta.get("source", "an input")
        row = f"all numbers of the row of element {list(producer.index)} are -inf, which {where} has put there"
        return Cause("softmax over a fully masked row", name, forward, (row, "0/0: no probability is left to share"))
    if name in SPREADS and first is not None:
        n = first.numel() // max(1, producer.tensor.numel())
        correction = producer.kwargs.get("correction", 1)
        if n <= (1 if correction is None else correction):
            text = f"{name} over {n} element{'s' * (n != 1)} divides by {n} - {correction or 0}"
            return Cause("variance of one element", name, forward, (text,))
    if name.startswith("nll_loss") and first is not None:
        _, labels, _, _, ignored = producer.args  # pyright: ignore[reportAssignmentType]
        text = f"all {labels.numel()} labels are {ignored} (ignore_index): the mean is one over nothing"
        if bool((labels == ignored).all()):
            return Cause("mean over no element", name, forward, (text,))
    if name == "mean" and first is not None and not first.numel():
        return Cause("mean over no element", name, forward, (f"the operand has shape {list(first.shape)}",))
    if name == "_ctc_loss":
        text = "a label that is longer than its input (with a blank between equal ones) has probability 0"
        return Cause("label out of range", name, forward, (text,))
    if name in NORMALIZATIONS and first is not None:
        return _of_normalization(producer, name, forward)
    return None


def _of_normalization(producer: Producer, name: str, forward: fx.Node) -> Cause | None:
    numbers = [a for a in producer.args if isinstance(a, float)]
    if numbers and numbers[-1] == 0.0:
        return Cause("division by zero", name, forward, ("eps is 0, and all numbers of a group are equal",))
    return None


def too_large(step: Step, producer: Producer, name: str, forward: fx.Node, exact: float) -> Cause:
    dtype = producer.tensor.dtype
    most = torch.finfo(dtype).max
    kind = str(dtype).removeprefix("torch.")
    if abs(exact) > most or _inside_too_large(producer, name, most):
        evidence = [said(producer, name), f"in float64 it is {exact:.4g}; the largest {kind} is {most:.4g}"]
        return growing(step, producer, Cause(f"overflow in {kind}", name, forward, tuple(evidence)))
    evidence = (said(producer, name), f"in float64 it is {exact:.6g}, which {kind} holds: the kernel is wrong")
    return Cause("wrong kernel", name, forward, evidence)


def _inside_too_large(producer: Producer, name: str, most: float) -> bool:
    """Whether squares or sums on the way, which are larger than the result, may be what overflowed."""
    sizes = [largest_of(t) for t in tensors_in((producer.args, tuple(producer.kwargs.values())))]
    largest = max(sizes, default=0.0)
    count = max((t.numel() for t in tensors_in(producer.args)), default=1)
    power = 2 if name in NORMS | SPREADS | NORMALIZATIONS | PRODUCTS | {"pow", "mse_loss"} else 1
    return largest**power * count > most


def growing(step: Step, producer: Producer, cause: Cause) -> Cause:
    """An overflow that was long in coming."""
    evidence = cause.evidence
    if growth.from_the_first(step):
        evidence = (*evidence, f"{step.trail_of} was {step.trail[0]:.3g} in the first step already, before any update")
    if rising := growth.training(step):
        evidence = (*evidence, f"{step.trail_of} grew from step to step: {growth.shown(rising)}")
        return Cause("exploding training", cause.name, cause.forward, evidence, {"losses": rising})
    name, weight = growth.heaviest(step)
    if step.number and growth.is_huge(weight):
        evidence = (*evidence, f"after {step.number} steps {name!r} has a weight of {weight:.3g}")
        return Cause("exploding training", cause.name, cause.forward, evidence, {"largest weight": weight})
    for sizes in (growth.recurrence(step, producer), growth.layers(step, producer)):
        if sizes:
            evidence = (*evidence, f"the same operator, one time after the other, gives up to {growth.shown(sizes)}")
            return Cause("exploding recurrence", cause.name, cause.forward, evidence, {"sizes": sizes})
    return cause


def _only_large(producer: Producer) -> bool:
    return any(isinstance(v := producer.operand(a), (int, float)) and abs(v) > 1 for a in producer.args)


def edge(name: str, producer: Producer) -> str:
    values = [producer.operand(a) for a in producer.args]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if name in DIVISIONS:
        return "division by zero"
    if name in PRODUCTS | {"addcmul"} and 0.0 in numbers:
        return "0 times inf"
    if name in SOLVERS:
        return "singular matrix"
    if name in NORMALIZATIONS | SPREADS:
        return "division by zero"
    if name in ("xlogy", "kl_div", "binary_cross_entropy") or name.startswith("nll_loss"):
        return "label out of range"
    return f"{plain(name)} at the edge of its domain"
