"""Where gradients are stopped, by which line, and which parameters lose theirs by it.

A stop matters where the loss depends on what is behind it. It is a *warning* where a parameter has no other way to the
loss, so that it gets no gradient at all; where there is another way the stop is a *note*: a straight-through estimator
is written like that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import fx

from memograd import ops
from memograd.adjoint.activity import is_smooth
from memograd.findings import listed
from memograd.inspection.program import Inspected, all_of, is_drawn, name_of, read
from memograd.inspection.report import Finding
from memograd.rules.registry import lookup
from memograd.tracing.functions import Call

# Comparisons stand inside of much that is differentiable (masks, a softmax that knows rows of -inf): not worth a note.
_CHOICES = ("arg", "sort", "topk", "max", "min", "multinomial", "_to_copy", "nonzero", "floor", "round", "sign")


@dataclass
class _Line:
    """What is stopped at one line of the program: bits of the inputs."""

    node: fx.Node
    kind: str
    lost: int = 0
    partly: int = 0


def stopped(inspected: Inspected) -> list[Finding]:
    """The findings about stops, in the order of the program."""
    reached = inspected.flows[inspected.loss]
    lines: dict[Any, _Line] = {}
    for node in inspected.graph.nodes:
        kind, bits = _stopped_by(inspected, node)
        lost = bits & ~reached
        if not bits or not (lost or _worth_a_note(inspected, node, kind)):
            continue
        place = (kind, node.meta.get("source"), node.meta.get("line"))
        line = lines.setdefault(place, _Line(node, kind))
        line.lost |= lost
        line.partly |= bits & reached
    return [_finding(inspected, line) for line in lines.values()]


def without(inspected: Inspected, unused: Collection[str]) -> list[Finding]:
    """Parameters without a gradient for which no stop is to blame: the loss does not depend on them, or the backward of
    an ``autograd.Function`` returns none. ``unused``: the inputs to which no adjoint came."""
    independent = inspected.names(~inspected.depends[inspected.loss])
    findings: list[Finding] = []
    if independent:
        findings.append(
            Finding(
                "warning",
                "unused parameter",
                f"the loss does not depend on {listed(independent)}: no gradient",
                "Use it, freeze it (requires_grad_(False)), or give the loss the result that it is for; "
                "DistributedDataParallel needs find_unused_parameters=True",
                names=independent,
            )
        )
    missing = _given_nothing(inspected, unused)
    for node in inspected.graph.nodes if missing else ():
        bits = inspected.flows[node]
        lost = tuple(n for n in inspected.names(bits) if n in {inspected.named(m) for m in missing})
        if isinstance(node.target, Call) and lost:
            what = f"the backward of {node.target.name} ({node.target.source}) returns no gradient for {listed(lost)}"
            findings.append(inspected.finding("warning", "stopped gradient", node, what, names=lost))
            missing -= {m for m in missing if inspected.named(m) in lost}
    return findings


def _given_nothing(inspected: Inspected, unused: Collection[str]) -> set[str]:
    """Inputs to which an adjoint would flow, and does not."""
    flows = inspected.flows[inspected.loss]
    return {name for k, name in enumerate(inspected.wrt) if flows >> k & 1} & set(unused)


def _stopped_by(inspected: Inspected, node: fx.Node) -> tuple[str, int]:
    """What sort of stop ``node`` is, and for which inputs; none where it is none, or the loss does not depend on it."""
    if node not in inspected.needed:
        return "", 0
    entry = lookup(node.target)
    if entry is not None and entry.kind == "zero":
        kind = "random numbers" if is_drawn(node) else "steps"
        return kind, all_of(inspected.flows, read(node)) if node in inspected.active else 0
    if node.target in ops.WRITES:
        new: Any = node.args[1]
        return "hidden write", all_of(inspected.carries, (new,))
    marked = "detach" if node.target is ops.stop else "no_grad" if node.target is ops.no_grad else ""
    if marked or not is_smooth(node):
        return marked or "whole numbers", all_of(inspected.carries, read(node))
    return "", 0


def _worth_a_note(inspected: Inspected, node: fx.Node, kind: str) -> bool:
    if kind in ("detach", "no_grad", "hidden write"):
        return True
    return node in inspected.open and (kind == "steps" or any(part in name_of(node) for part in _CHOICES))


_SAYS = {
    "detach": ("the value goes on and the gradient does not (detach, .data, or inference mode)", "Leave it out"),
    "no_grad": ("this runs under no_grad, so that no gradient flows back through it", "Compute it with gradients on"),
    "hidden write": (
        "this is written where autograd does not see it (.data, or under no_grad)",
        "Write it in the open",
    ),
    "steps": ("{name} has a derivative of zero nearly everywhere", "Use a smooth function, or pass its gradient on"),
    "random numbers": (
        "numbers drawn from a distribution have no derivative by its parameters",
        "Draw from a fixed distribution and scale it (reparametrize)",
    ),
    "whole numbers": (
        "{name} returns whole numbers or truth values, which have no derivative",
        "Use a smooth function (softmax for argmax, a sigmoid for a comparison)",
    ),
}


def _finding(inspected: Inspected, line: _Line) -> Finding:
    says, advice = _SAYS[line.kind]
    says = says.format(name=name_of(line.node))
    if line.lost:
        names = inspected.names(line.lost)
        what = f"{says}; {listed(names)} get{'s' * (len(names) == 1)} no gradient, though the loss depends on it"
        advice = f"{advice}, or freeze them (requires_grad_(False)) if this is meant"
        return inspected.finding("warning", "stopped gradient", line.node, what, advice, names)
    names = inspected.names(line.partly)
    what = f"{says}; {listed(names)} get{'s' * (len(names) == 1)} a gradient by other ways only"
    return inspected.finding("note", "stopped gradient", line.node, what, names=names)
