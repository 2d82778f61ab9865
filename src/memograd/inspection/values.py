"""Values of Python's and of tensors that a program goes by: where one differs, another graph is captured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from memograd._torch import tables_of
from memograd.graph.graph import Graph
from memograd.inspection.parameters import modules_of
from memograd.inspection.program import Inspected
from memograd.inspection.report import Finding
from memograd.looks import look
from memograd.tracing.effects import Effect

_NUMBERS = (int, float, complex, str)  # bool is an int


def decisions(inspected: Inspected) -> list[Finding]:
    """A note for each line that looks at a tensor's value."""
    lines: dict[Any, list[fx.Node]] = {}
    for node in inspected.graph.nodes:
        if node.target is look:
            lines.setdefault((node.meta.get("source"), node.meta.get("line")), []).append(node)
    return [_decision(inspected, nodes) for nodes in lines.values()]


def _decision(inspected: Inspected, nodes: list[fx.Node]) -> Finding:
    kinds: list[Any] = [n.args[2] for n in nodes]
    values: list[Any] = [n.args[3] for n in nodes]
    times = f", {len(nodes)} times" if len(nodes) > 1 else ""
    what = "how many elements there are depends on values" if "shape" in kinds else "it looks at the value of a tensor"
    return inspected.finding(
        "note",
        "data-dependent control flow",
        nodes[0],
        f"{what} (here {_shown(values[0])}{times}). mg.wrap and mg.TrainStep keep one program for each way that it "
        "goes, and compare at each call; mg.capture refuses it",
        "Write it with tensor operations (torch.where), or compute it outside and pass it in, and one program does",
    )


def _shown(value: str) -> str:
    try:
        return repr(float.fromhex(value)) if "0x" in value else value[:40]
    except ValueError:
        return value[:40]


def volatile(inspected: Inspected) -> list[Finding]:
    """A warning where the program is another one at each call."""
    guards = inspected.graph.guards
    if guards is None:
        return []
    findings: list[Finding] = []
    if guards.volatile:
        what = "the program draws random numbers of Python's or NumPy's, and goes by them"
        advice = "Draw from torch (torch.rand), or outside, and pass the numbers in"
        findings.append(Finding("warning", "captured at each call", f"{what}: each call is captured anew", advice))
    for name in map(inspected.named, changing(inspected.graph)):
        what = f"the program changes {name!r}, and reads it: each call is captured anew"
        advice = "Keep it in a tensor (register_buffer), or count outside"
        findings.append(Finding("warning", "captured at each call", what, advice, names=(name,)))
    return findings


def changing(graph: Graph) -> list[str]:
    """The numbers of Python's that the program reads, and leaves others in their place."""
    if graph.guards is None or not graph.effects:
        return []
    read = {(id(p.holder), p.key): p.name for p, value in graph.guards.values() if isinstance(value, _NUMBERS)}
    effects: list[Effect] = list(graph.effects.effects)
    places = [(id(effect.holder.holder), effect.key) for effect in effects]
    return [read[place] for place in places if place in read]


def baked(inspected: Inspected) -> list[Finding]:
    """A note about the user's numbers that are constants of the graph."""
    values = dict(_of_arguments(inspected))
    if inspected.graph.guards is not None:
        library = {
            id(held)
            for module in modules_of(inspected.program).values()
            for m in module.modules()
            if type(m).__module__.startswith(("torch.", "memograd."))
            for held in tables_of(m)
        }
        for place, value in inspected.graph.guards.values():
            theirs = id(place.holder) in library or place.key == "training"
            if not theirs and isinstance(value, _NUMBERS) and isinstance(place.key, str):
                values[inspected.named(place.name)] = value
    if not values:
        return []
    some = [f"{name}={value!r}" for name, value in list(values.items())[:4]]
    more = f" and {len(values) - 4} more" if len(values) > 4 else ""
    what = f"the graph holds for {', '.join(some)}{more}; a call with other values is captured anew"
    return [Finding("note", "values baked in", what, names=tuple(values))]


def _of_arguments(inspected: Inspected) -> Iterator[tuple[str, Any]]:
    calling = inspected.graph.calling
    for name, value in zip(calling.in_names, calling.in_leaves, strict=True):
        if isinstance(value, _NUMBERS):
            yield name, value
