"""Losses that are not what they look like: softmax twice, a sigmoid too many, shapes that broadcast, inputs unused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from memograd.doctor.patient import Patient, name_of, wide
from memograd.doctor.report import Finding, Where
from memograd.inspection.objective import Loss
from memograd.inspection.program import read
from memograd.looks import look
from memograd.train.planning import takes_target

_SCALED = frozenset(["mul", "div"])  # a temperature
_ELEMENTWISE = frozenset(
    ["sub", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "mul", "add", "pow", "abs", "rsub"]
)
_REDUCTIONS = frozenset(["mean", "sum", "amax", "amin", "max", "min", "prod", "logsumexp", "median"])
_ELEMENTWISE |= {"binary_cross_entropy", "binary_cross_entropy_with_logits"}


def losses(patient: Patient) -> list[Finding]:
    """All of them."""
    return [*_twice(patient), *_probabilities(patient), *_across_the_batch(patient), *_broadcast(patient)]


# -- softmax and sigmoid -----------------------------------------------------------------------------------------------


def _origin(patient: Patient, v: fx.Node) -> fx.Node:
    """The operator whose result ``v`` is, in another shape or scaled by a number."""
    v = patient.source_of(v)
    while v.op == "call_function" and name_of(v) in _SCALED and len(v.all_input_nodes) == 1:
        v = patient.source_of(v.all_input_nodes[0])
    return v


def _twice(patient: Patient) -> Iterator[Finding]:
    """A softmax or sigmoid of what is one already, inside a loss that applies its own."""
    for u in patient.nodes:
        loss = {"_log_softmax": "cross_entropy", "binary_cross_entropy_with_logits": "BCEWithLogitsLoss"}.get(
            name_of(u)
        )
        if loss is None:
            continue
        origin = _origin(patient, u.all_input_nodes[0])
        before = name_of(origin) if origin.op == "call_function" else ""
        if before == "_softmax" or before == "sigmoid":
            yield _softened(patient, u, origin, loss)
        elif before == "_log_softmax" and u.all_input_nodes[0] is not origin:
            continue
        elif before == "_log_softmax":
            what = "log_softmax is applied to what is a log_softmax already: harmless, and one too many"
            fix = "nn.NLLLoss() for a model that returns log_softmax, or nn.CrossEntropyLoss() for plain scores"
            yield patient.finding("note", "softmax twice", what, u, fix=fix)


def _softened(patient: Patient, u: fx.Node, origin: fx.Node, loss: str) -> Finding:
    before = name_of(origin).strip("_")
    inside, y = wide(patient.values[u.all_input_nodes[0]]), wide(patient.values[u])
    own = "softmax" if loss == "cross_entropy" else "sigmoid"
    place = origin.meta.get("source") or ""
    evidence = [
        f"what goes in lies between {inside.min().item():.3g} and {inside.max().item():.3g}: {before} at {place}"
    ]
    if own == "softmax":
        classes = y.shape[int(u.args[1])]  # pyright: ignore[reportArgumentType]
        floor = torch.log1p((classes - 1) * torch.exp(torch.tensor(-1.0, dtype=torch.float64))).item()
        evidence.append(f"so the loss cannot fall below {floor:.3g} for {classes} classes, however sure the model is")
    else:
        evidence.append("so the probability stays between 0.5 and 0.73, however sure the model is")
    what = f"{loss} applies {own} by itself, and what it is given is the result of {before} already"
    kind = (
        "softmax twice"
        if before == own == "softmax"
        else "sigmoid twice"
        if before == own
        else f"{before} before {loss}"
    )
    fix = f"Leave the {before} out: the model returns plain scores (logits), and {loss} does the rest"
    return patient.finding("error", kind, what, u, "forward", evidence, fix)


def _probabilities(patient: Patient) -> Iterator[Finding]:
    """nll_loss wants logarithms of probabilities, which are never above zero."""
    for u in patient.nodes:
        if not name_of(u).startswith("nll_loss"):
            continue
        scores = wide(patient.values[u.all_input_nodes[0]])
        above = (scores > 1e-3).double().mean().item()
        if above > 0.01:
            origin = name_of(_origin(patient, u.all_input_nodes[0])).strip("_")
            low, high = scores.min().item(), scores.max().item()
            what = f"nll_loss wants logarithms of probabilities; {above:.0%} of what it is given is above 0"
            evidence = (f"it lies between {low:.3g} and {high:.3g}, from {origin}: the loss falls without end",)
            fix = "nn.CrossEntropyLoss() on plain scores, or F.log_softmax(scores, dim=1) in front of nn.NLLLoss()"
            yield patient.finding("error", "not a log-probability", what, u, "forward", evidence, fix)


def _across_the_batch(patient: Patient) -> Iterator[Finding]:
    """A softmax over the samples instead of the classes."""
    for u in patient.nodes:
        shape = tuple(u.meta["val"].shape) if isinstance(u.meta["val"], torch.Tensor) else ()
        if name_of(u) not in ("_softmax", "_log_softmax") or len(shape) != 2:
            continue
        dim = int(u.args[1]) % 2  # pyright: ignore[reportArgumentType]
        if dim == 0 and shape[0] == patient.batch and shape[1] > 1 and shape[0] != shape[1]:
            what = f"this softmax runs over dimension 0 of shape {shape}: over the {shape[0]} samples, not the classes"
            evidence = (
                "the probabilities of one sample do not sum to 1, and depend on the other samples of the batch",
            )
            yield patient.finding("error", "softmax over the batch", what, u, "forward", evidence, "dim=1 (or dim=-1)")


# -- shapes ------------------------------------------------------------------------------------------------------------


def _broadcast(patient: Patient) -> Iterator[Finding]:
    """(N, 1) against (N,) gives (N, N): every prediction is compared with every target."""
    depends = patient.table
    for u in patient.nodes:
        if name_of(u) not in _ELEMENTWISE:
            continue
        operands = [patient_before_expand(v) for v in u.all_input_nodes]
        shapes = [tuple(v.meta["val"].shape) for v in operands if isinstance(v.meta["val"], torch.Tensor)]
        if len(shapes) != 2 or all(v in depends for v in operands):
            continue
        column, row = sorted(shapes, key=len, reverse=True)
        n = patient.batch or (row[0] if row else 0)
        if n > 1 and len(row) == 1 and row[0] == n and column[-2:] == (n, 1) and len(column) == 2:
            what = f"shapes {shapes[0]} and {shapes[1]} broadcast to ({n}, {n}): each prediction meets every target"
            evidence = ("the loss is least where every prediction is the mean of all targets: that is what is learnt",)
            fix = "loss(prediction.squeeze(1), target), or target.unsqueeze(1): both of one shape"
            yield patient.finding("error", "shapes broadcast", what, u, "forward", evidence, fix)
            return


def patient_before_expand(v: fx.Node) -> fx.Node:
    """What was stretched to another shape."""
    while v.op == "call_function" and name_of(v) == "expand":
        v = v.all_input_nodes[0]
    return v


# -- inputs ------------------------------------------------------------------------------------------------------------


def inputs_unused(patient: Patient) -> list[Finding]:
    """The loss does not depend on the arguments of the model, or the model says the same for all samples."""
    program = patient.inspected.program
    graph = patient.inspected.graph
    arguments = [(i.name, n) for i, n in zip(graph.inputs, graph.placeholders, strict=True) if i.kind == "input"]
    if isinstance(program, Loss) and program.criterion is not None and takes_target(program.criterion):
        arguments = arguments[:-1]
    reached = [(name, n) for name, n in arguments if n in patient.inspected.needed]
    read_as_numbers = any(n.target is look for n in graph.nodes)  # what those decide, the graph does not show
    if arguments and not reached and not read_as_numbers:
        what = f"the loss does not depend on {', '.join(repr(n) for n, _ in arguments)}: it is the same for any batch"
        fix = "See where the forward pass loses its input: a name used twice, a branch that ignores it"
        return [Finding("error", "inputs unused", what, Where(), (), fix)]
    return _same_for_all(patient)


def _same_for_all(patient: Patient) -> list[Finding]:
    output = _output(patient)
    if output is None or patient.batch < 2:
        return []
    value = patient.values[output]
    if value.dim() < 2 or value.shape[0] != patient.batch or not value.is_floating_point() or not value.numel():
        return []
    y = wide(value).reshape(len(value), -1)
    spread, size = (y - y.mean(0)).abs().max().item(), y.abs().max().item()
    if spread > 1e-6 * size or size == 0 or not torch.isfinite(y).all():
        return []  # a last layer that starts at zero says zero for all, with reason
    if not any(_varies(patient.values[n]) for n in _placeholders(patient) if n.meta["val"].dim()):
        return []
    what = f"the model says the same for all {patient.batch} samples, whose inputs differ: {_few(y[0])}"
    evidence = (f"its outputs differ by {spread:.1e} at most, and are {size:.3g} in size",)
    fix = "Somewhere the input is lost: dead or saturated units, a weight of zero, a normalisation over one element"
    at = _lost_at(patient, output)
    if at is not None and name_of(at) in _REDUCTIONS:
        what += f"; this {name_of(at)} is over the {patient.batch} samples"
        fix = "Sum and average over the other dimensions (dim=1, dim=-1): the first one is that of the samples"
    place = output if at is None else at
    return [patient.finding("error", "same output for all samples", what, place, "forward", evidence, fix)]


def _lost_at(patient: Patient, output: fx.Node) -> fx.Node | None:
    """The operator nearest to the output that is given what differs from sample to sample, and gives what does not."""
    waiting, visited = [output], {output}
    for node in waiting:
        fresh = [v for v in node.all_input_nodes if v not in visited and v.op == "call_function"]
        if any(_by_sample(patient, v) for v in node.all_input_nodes):
            return node
        visited.update(fresh)
        waiting += fresh
    return None


def _by_sample(patient: Patient, v: fx.Node) -> bool:
    value = patient.values.get(v)
    return isinstance(value, torch.Tensor) and value.shape[:1] == (patient.batch,) and _varies(value)


def _placeholders(patient: Patient) -> list[fx.Node]:
    graph = patient.graph
    return [n for i, n in zip(graph.inputs, graph.placeholders, strict=True) if i.kind == "input"][:1]


def _varies(value: Any) -> bool:
    return value.dim() > 0 and len(value) > 1 and bool((value != value[:1]).any())


def _output(patient: Patient) -> fx.Node | None:
    """What the model hands to a loss beside it."""
    program = patient.inspected.program
    if not (isinstance(program, Loss) and program.criterion is not None):
        return None
    inside = {n for n in patient.graph.nodes if n.meta.get("calls", ())[:1] == (("model", 0),)}
    handed = [n for n in inside if any(u not in inside and n in read(u) for u in n.users)]
    handed = [n for n in handed if n in patient.table]
    return handed[0] if len(handed) == 1 else None


def _few(row: torch.Tensor) -> str:
    some = ", ".join(f"{x:.4g}" for x in row[:4].tolist())
    return f"[{some}{', ...' if len(row) > 4 else ''}]"
