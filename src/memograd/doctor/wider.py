"""The same values and adjoints in float64: what they would be without rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd import autocast
from memograd.doctor.patient import Patient, recursion
from memograd.graph.interpreter import called, evaluate
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
    graph = patient.graph
    inside = Inspected(patient.inspected.program, graph, patient.inspected.wrt)

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        return wide_tree(patient.values[node]) if is_random(node) else called(node, args, kwargs)

    with torch.no_grad(), autocast.off(), Widened():
        values = evaluate(graph, [wide(t) for t in patient.flat], call)
        table, _ = recursion(inside, values)
    return Wider(values, table)


def wide_tree(value: Any) -> Any:
    return type(value)(map(wide, value)) if isinstance(value, (list, tuple)) else wide(value)
