"""A graph that is not well formed is refused, by what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx

import memograd as mg
from memograd.graph.entries import Output
from memograd.graph.graph import Graph

aten = torch.ops.aten


def captured() -> Graph:
    return mg.capture(lambda x: x.sin() * 2, torch.ones(3))


def changed(graph: Graph, how) -> Graph:
    """``graph`` around a copy of its operators to which ``how(new, results)`` was done."""
    new, where = graph.copy()
    results = [where[n] for n in graph.results]
    results = how(new, results) or results
    new.output(tuple(results))
    return graph.with_fx(new)


def test_a_well_formed_graph_is_returned() -> None:
    graph = captured()
    assert graph.verify() is graph and changed(graph, lambda new, results: None).verify()


def test_an_operator_that_writes_in_place_is_refused() -> None:
    def how(new: fx.Graph, results: list[fx.Node]) -> list[fx.Node]:
        made = new.call_function(aten.mul_.Tensor, (results[0], 3))
        made.meta["val"] = results[0].meta["val"]
        return [made]

    with pytest.raises(mg.GraphError, match=r"mul_.*writes in place"):
        changed(captured(), how).verify()


def test_a_value_of_unknown_form_is_refused() -> None:
    with pytest.raises(mg.GraphError, match=r"cos.*no value metadata"):
        changed(captured(), lambda new, results: [new.call_function(aten.cos.default, (results[0],))]).verify()


def test_a_call_of_a_method_is_refused() -> None:
    with pytest.raises(mg.GraphError, match="unexpected node"):
        changed(captured(), lambda new, results: [new.call_method("cos", (results[0],))]).verify()


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_a_signature_of_another_length_is_refused(what: str) -> None:
    graph = captured()
    more = {"inputs": graph.inputs * 2, "outputs": (*graph.outputs, Output("output", "more"))}[what]
    with pytest.raises(mg.GraphError, match="number of inputs or outputs"):
        replace(graph, **{what: more}).verify()


def test_a_node_of_another_graph_is_refused() -> None:
    other = captured()
    with pytest.raises(mg.GraphError, match=r"cos.* reads mul, which is not before it"):
        changed(captured(), lambda new, results: [new.call_function(aten.cos.default, (other.results[0],))]).verify()


def test_an_operator_before_its_operand_is_refused() -> None:
    with pytest.raises(mg.GraphError, match=r"mul .*reads sin, which is not before it"):
        changed(captured(), lambda new, results: results[0].append(results[0].args[0])).verify()


def test_two_nodes_of_one_name_are_refused() -> None:
    def how(new: fx.Graph, results: list[fx.Node]) -> None:
        results[0].name = results[0].args[0].name

    with pytest.raises(mg.GraphError, match="one name"):
        changed(captured(), how).verify()
