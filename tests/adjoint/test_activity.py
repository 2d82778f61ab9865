"""Which nodes take part: those on a path from an input of interest to a result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import memograd as mg
from memograd import ops
from memograd.adjoint.activity import active_nodes, is_smooth, operands

aten = torch.ops.aten
X = torch.randn(3)


def active(graph: Any, *names: str) -> list[Any]:
    nodes = active_nodes([graph.placeholder(n) for n in names], [graph.results[0]])
    return [n.name if n.op == "placeholder" else n.target for n in nodes]


def test_what_only_other_inputs_lead_to_takes_no_part() -> None:
    graph = mg.capture(lambda x, y: (x.sin() * y.cos()).sum(), X, X)
    assert active(graph, "x") == ["x", aten.sin.default, aten.mul.Tensor, aten.sum.default]


def test_what_leads_to_no_result_takes_no_part() -> None:
    graph = mg.capture(lambda x: (x.sin().sum(), x.cos()), X)
    assert active(graph, "x") == ["x", aten.sin.default, aten.sum.default]


def test_no_path_goes_through_stops_integers_and_constants() -> None:
    graph = mg.capture(lambda x: (x.detach() + x.argmax() + torch.zeros_like(x)).sum(), X)
    assert active(graph, "x") == []


def test_integers_are_no_inputs_of_interest() -> None:
    graph = mg.capture(lambda x, i: x[i].sum(), X, torch.tensor([0, 1]))
    (placeholder,) = [n for n in graph.placeholders if n.name == "i"]
    assert not is_smooth(placeholder)
    assert active(graph, "i") == []


def test_an_operand_that_is_read_twice_is_listed_twice() -> None:
    graph = mg.capture(lambda x: (x * x).sum(), X)
    assert operands(graph.nodes[0]) == (graph.placeholders[0], graph.placeholders[0])


def test_an_adjoint_of_an_overwritten_value_goes_to_what_it_was() -> None:
    model = nn.Linear(2, 1)

    def clipped(x: torch.Tensor) -> torch.Tensor:
        model.weight.data.clamp_(-0.1, 0.1)
        return model(x).sum()

    graph = mg.capture(clipped, torch.randn(1, 2))
    (overwrite,) = [n for n in graph.nodes if n.target is ops.overwrite]
    assert operands(overwrite) == (overwrite.args[0],)
    assert len(overwrite.args) == 2
