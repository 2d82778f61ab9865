"""The same values and adjoints in float64: what they would be without rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from memograd.doctor.patient import Patient
from memograd.doctor.recursed import recursed
from memograd.graph.interpreter import called
from memograd.inspection.program import Inspected
from memograd.ops import is_random
from memograd.witness.widened import Widened, wide


@dataclass(frozen=True)
class Wider:
    """Values, adjoints and contributions of the graph of a patient, in float64."""

    values: dict[fx.Node, Any]
    table: dict[fx.Node, Any]


def widened(patient: Patient) -> Wider:
    """Run forward and recursion again in float64; what was drawn at random is what was drawn before."""
    inside = Inspected(patient.inspected.program, patient.graph, patient.inspected.wrt)
    drawn = {n.name: patient.values[n] for n in patient.graph.nodes if is_random(n)}

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        return wide_tree(drawn[node.name]) if node.name in drawn else called(node, args, kwargs)

    with Widened():
        values, table, _ = recursed(inside, [wide(t) for t in patient.flat], call)
    return Wider(values, table)


def wide_tree(value: Any) -> Any:
    return type(value)(map(wide, value)) if isinstance(value, (list, tuple)) else wide(value)
