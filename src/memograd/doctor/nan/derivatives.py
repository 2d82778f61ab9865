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


def of_derivative(step: Step, made: Producer, name: str) -> Cause:
    forward = forward_of(step, made)
    whose = called(forward.target) if forward is not None else name
    operands, adjoint = met(step, made, forward)
    told = [f"the derivative of {plain(whose)}: {said(made, name)}"]
    if operands:
        told.append(f"{plain(whose)} was called there with {', '.join(number(v) for v in operands)}")
    if adjoint is not None:
        told.append(f"the adjoint that arrives there is {number(adjoint)}")
    wide = in_float64(made)
    if wide is not None and math.isfinite(exact := element(wide, made)):
        cause = too_large(step, made, name, forward or made.node, exact)
        return Cause(cause.kind, whose, forward, (*told[:1], *cause.evidence[1:]), cause.numbers)
    if adjoint == 0.0 and forward is not None and not _is_left_out(forward):
        told.append("0 times an infinite derivative is NaN")
    elif adjoint == 0.0:
        told.append("nobody reads that element, so its adjoint is 0; 0 times an infinite derivative is NaN")
        return Cause("where-gradient trap", whose, forward, tuple(told))
    if forward is not None and isinstance(forward.target, Call):
        # The author's own backward: what it does there is named, as in a forward pass
        return Cause(edge(name, made), whose, forward, (f"in the backward of {whose}: {said(made, name)}", *told[1:]))
    if whose in SOFTMAXES and made.written is not None:
        told.append(
            f"a row of it is -inf altogether, which {made.written.meta.get('source', 'an input')} has put there"
        )
        kind = "softmax over a fully masked row"
    elif whose in ("_linalg_eigh", "_linalg_svd", "linalg_eig"):
        told.append("it divides by the distance of two eigenvalues (of singular values), and two are equal")
        kind = "equal eigenvalues"
    elif whose in DIVISIONS:
        kind = "division by zero"
    elif whose in NORMS:
        kind = "norm at the edge of its domain"
    else:
        kind = f"{plain(whose)} at the edge of its domain"
    return Cause(kind, whose, forward, tuple(told))


def _is_left_out(node: fx.Node) -> bool:
    """Whether something behind ``node`` chooses among its elements: a condition, a mask, an index."""
    shape = node.meta["val"].shape
    waiting, seen = [node], {node}
    for one in waiting:
        for user in one.users:
            if user in seen or user.op == "output" or "adjoint_of" in user.meta:
                continue
            name = getattr(getattr(user.target, "overloadpacket", None), "__name__", "")
            by_a_mask = name == "mul" and any(n is not one for n in user.all_input_nodes)
            if name in _CHOOSERS or by_a_mask:
                return True
            if getattr(user.meta["val"], "shape", None) == shape:
                seen.add(user)
                waiting.append(user)
    return False


def hidden(step: Step, made: Producer, name: str) -> Cause | None:
    """An operator of the forward pass whose NaN or infinity the loss does not see, but the derivative."""
    if made.target in step.losses or not isinstance(made.node.meta["val"], torch.Tensor):
        return None
    _, adjoint = met(step, made, made.node)
    if adjoint != 0.0:
        return None
    told = (
        said(made, name),
        "nobody reads that element: the loss is finite, and the adjoint that arrives there is 0",
        f"but the derivative of {plain(name)} multiplies that 0 by a number which is not finite",
    )
    return Cause("where-gradient trap", name, made.node, told)


def first_derivative(step: Step, made: Producer) -> Cause | None:
    """NaN in the data that the loss leaves out, but a derivative multiplies with."""
    node = next((n for n in made.run.bad if "adjoint_of" in n.meta), None)
    forward = _forward_of(step, node) if node is not None else None
    if node is None or forward is None:
        return None
    name, line = called(forward.target), (forward.meta.get("line") or "").strip()
    told = (
        f"the loss is finite: it leaves out what is not finite in {step.shown(_entry(step, made))!r}",
        f"but the derivative of {plain(name)} at {forward.meta.get('source', 'an unknown line')} ({line}) reads it, "
        "and 0 times NaN is NaN",
    )
    return Cause("where-gradient trap", name, forward, told)


def _entry(step: Step, made: Producer) -> str:
    return step.joint.inputs[step.joint.placeholders.index(made.node)].name


def forward_of(step: Step, made: Producer) -> fx.Node | None:
    """The operator of the forward pass whose rule ``made`` is a product of."""
    return _forward_of(step, made.node)


def _forward_of(step: Step, node: fx.Node) -> fx.Node | None:
    name = node.meta.get("adjoint_of")
    return next((n for n in step.joint.nodes if n.name == name and "adjoint_of" not in n.meta), None)


def met(step: Step, made: Producer, forward: fx.Node | None) -> tuple[list[Any], float | None]:
    """What the forward operator was called with at this element, and the adjoint that arrives there."""
    if forward is None or not isinstance(forward.meta["val"], torch.Tensor):
        return [], None
    shape = forward.meta["val"].shape
    if shape != made.tensor.shape:
        return [], None
    arriving = adjoint_of(step, forward)
    nodes = {forward, *([arriving] if arriving is not None else [])}
    seen = mended(step, made.alone, nodes).seen
    operands = [made.operand(a) for a in seen[forward][0]]
    numbers = [v for v in operands if isinstance(v, (int, float, complex)) and not isinstance(v, bool)]
    if arriving is None or arriving not in seen:
        return numbers, None
    return numbers, made.operand(seen[arriving][2])


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
