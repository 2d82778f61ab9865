"""Faults of derivatives: products of a rule, by the forward operator that the rule belongs to, what that was called
with and the adjoint that arrives there."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan.evidence import (
    DIVISIONS,
    NORMS,
    SOFTMAXES,
    Cause,
    called,
    element,
    in_float64,
    number,
    plain,
    readers,
    said,
)
from memograd.doctor.nan.operators import edge, too_large
from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.replay import Step, mended
from memograd.tracing.functions import Call

_CHOOSERS = frozenset(
    {
        "where",
        "masked_fill",
        "masked_select",
        "index",
        "index_select",
        "gather",
        "slice",
        "select",
        "index_put",
        "clamp",
    }
)


def of_derivative(step: Step, producer: Producer, name: str) -> Cause:
    forward = forward_of(step, producer)
    whose = called(forward.target) if forward is not None else name
    operands, adjoint = met(step, producer, forward)
    evidence = [f"the derivative of {plain(whose)}: {said(producer, name)}"]
    if operands:
        evidence.append(f"{plain(whose)} was called there with {', '.join(number(v) for v in operands)}")
    if adjoint is not None:
        evidence.append(f"the adjoint that arrives there is {number(adjoint)}")
    wide = in_float64(producer)
    if wide is not None and math.isfinite(exact := element(wide, producer)):
        cause = too_large(step, producer, name, forward or producer.node, exact)
        return Cause(cause.kind, whose, forward, (*evidence[:1], *cause.evidence[1:]), cause.numbers)
    if adjoint == 0.0 and forward is not None and not _is_left_out(forward):
        evidence.append("0 times an infinite derivative is NaN")
    elif adjoint == 0.0:
        evidence.append("nobody reads that element, so its adjoint is 0; 0 times an infinite derivative is NaN")
        return Cause("where-gradient trap", whose, forward, tuple(evidence))
    if forward is not None and isinstance(forward.target, Call):
        # The author's own backward: what it does there is named, as in a forward pass
        inside = f"in the backward of {whose}: {said(producer, name)}"
        return Cause(edge(name, producer), whose, forward, (inside, *evidence[1:]))
    if whose in SOFTMAXES and producer.written is not None:
        evidence.append(
            f"a row of it is -inf altogether, which {producer.written.meta.get('source', 'an input')} has put there"
        )
        kind = "softmax over a fully masked row"
    elif whose in ("_linalg_eigh", "_linalg_svd", "linalg_eig"):
        evidence.append("it divides by the distance of two eigenvalues (of singular values), and two are equal")
        kind = "equal eigenvalues"
    elif whose in DIVISIONS:
        kind = "division by zero"
    elif whose in NORMS:
        kind = "norm at the edge of its domain"
    else:
        kind = f"{plain(whose)} at the edge of its domain"
    return Cause(kind, whose, forward, tuple(evidence))


def _is_left_out(node: fx.Node) -> bool:
    """Whether something behind ``node`` chooses among its elements: a condition, a mask, an index."""
    for value, user in readers(node):
        name = getattr(getattr(user.target, "overloadpacket", None), "__name__", "")
        by_a_mask = name == "mul" and any(n is not value for n in user.all_input_nodes)
        if name in _CHOOSERS or by_a_mask:
            return True
    return False


def hidden(step: Step, producer: Producer, name: str) -> Cause | None:
    """An operator of the forward pass whose NaN or infinity the loss does not see, but the derivative."""
    if producer.target in step.losses or not isinstance(producer.node.meta["val"], torch.Tensor):
        return None
    _, adjoint = met(step, producer, producer.node)
    if adjoint != 0.0:
        return None
    evidence = (
        said(producer, name),
        "nobody reads that element: the loss is finite, and the adjoint that arrives there is 0",
        f"but the derivative of {plain(name)} multiplies that 0 by a number which is not finite",
    )
    return Cause("where-gradient trap", name, producer.node, evidence)


def first_derivative(step: Step, producer: Producer) -> Cause | None:
    """NaN in the data that the loss leaves out, but a derivative multiplies with."""
    node = next((n for n in producer.run.bad if "adjoint_of" in n.meta), None)
    forward = _forward_of(step, node) if node is not None else None
    if node is None or forward is None:
        return None
    name, line = called(forward.target), (forward.meta.get("line") or "").strip()
    evidence = (
        f"the loss is finite: it leaves out what is not finite in {step.shown(_entry(step, producer))!r}",
        f"but the derivative of {plain(name)} at {forward.meta.get('source', 'an unknown line')} ({line}) reads it, "
        "and 0 times NaN is NaN",
    )
    return Cause("where-gradient trap", name, forward, evidence)


def _entry(step: Step, producer: Producer) -> str:
    return step.joint.inputs[step.joint.placeholders.index(producer.node)].name


def forward_of(step: Step, producer: Producer) -> fx.Node | None:
    """The operator of the forward pass whose rule ``producer`` is a product of."""
    return _forward_of(step, producer.node)


def _forward_of(step: Step, node: fx.Node) -> fx.Node | None:
    name = node.meta.get("adjoint_of")
    return next((n for n in step.joint.nodes if n.name == name and "adjoint_of" not in n.meta), None)


def met(step: Step, producer: Producer, forward: fx.Node | None) -> tuple[list[Any], float | None]:
    """What the forward operator was called with at this element, and the adjoint that arrives there."""
    if forward is None or not isinstance(forward.meta["val"], torch.Tensor):
        return [], None
    shape = forward.meta["val"].shape
    if shape != producer.tensor.shape:
        return [], None
    arriving = adjoint_of(step, forward)
    nodes = {forward, *([arriving] if arriving is not None else [])}
    calls = mended(step, producer.alone, nodes).calls
    operands = [producer.operand(a) for a in calls[forward][0]]
    numbers = [v for v in operands if isinstance(v, (int, float, complex)) and not isinstance(v, bool)]
    if arriving is None or arriving not in calls:
        return numbers, None
    return numbers, producer.operand(calls[arriving][2])


def adjoint_of(step: Step, forward: fx.Node) -> fx.Node | None:
    """The node that is adjoint(forward)."""
    own = [n for n in step.joint.nodes if n.meta.get("adjoint_of") == forward.name]
    shape = forward.meta["val"].shape
    for node in own:
        for operand in node.all_input_nodes:
            foreign = operand.meta.get("adjoint_of", forward.name) != forward.name
            if foreign and getattr(operand.meta["val"], "shape", None) == shape:
                return operand
    return None
