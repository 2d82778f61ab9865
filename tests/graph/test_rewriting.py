"""A graph written anew from another: what a pass may say of each operator."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import fx

import memograd as mg
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting, drop_unread

aten = torch.ops.aten
X = torch.tensor([[1.0, 2.0], [3.0, 5.0]])


def targets(graph: Graph) -> list[Any]:
    return [n.target for n in graph.nodes]


def test_a_copy_computes_the_same_with_the_same_metadata() -> None:
    graph = mg.capture(lambda x: (x.sin() * x, x.cos()), X)
    copied = graph.rewritten()
    assert copied.code == graph.code
    assert copied.fx is not graph.fx
    for ours, expected in zip(copied(X), (X.sin() * X, X.cos()), strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_node_may_stand_for_another() -> None:
    def without_sines(new: Rewriting, node: fx.Node) -> fx.Node:
        return new.where[node.args[0]] if node.target is aten.sin.default else new.copy(node)

    graph = mg.capture(lambda x: x.sin().exp() + x, X).rewritten(without_sines).verify()
    assert targets(graph) == [aten.exp.default, aten.add.Tensor]
    torch.testing.assert_close(graph(X), X.exp() + X)


def test_a_list_stands_for_an_operator_with_several_results() -> None:
    def swapped(new: Rewriting, node: fx.Node) -> Any:
        if node.target is not aten.split.Tensor:
            return new.copy(node)
        parts = new.copy(node)
        picked = [new.fx.call_function(getitem, (parts, k)) for k in (1, 0)]
        for one in picked:
            one.meta["val"] = node.meta["val"][0]
        return picked

    graph = mg.capture(lambda x: torch.add(*x.split(1), alpha=10), X).rewritten(swapped).verify()
    torch.testing.assert_close(graph(X), X[1:] + 10 * X[:1])


def test_other_results_in_another_order() -> None:
    graph = mg.capture(lambda x: (x.sin(), x.exp()), X)
    turned = graph.rewritten(
        nodes=[*graph.placeholders, *reversed(graph.nodes)], results=graph.results[::-1], outputs=graph.outputs[::-1]
    ).verify()
    assert targets(turned) == [aten.exp.default, aten.sin.default]
    for ours, expected in zip(turned(X), (X.exp(), X.sin()), strict=True):
        torch.testing.assert_close(ours, expected)


def test_what_is_written_already_is_not_written_twice() -> None:
    graph = mg.capture(lambda x: x.sin().exp(), X)
    new = Rewriting()
    new.write(graph.placeholders)
    new.where[graph.nodes[0]] = new.where[graph.placeholders[0]]
    torch.testing.assert_close(graph.rewritten(new=new).verify()(X), X.exp())


def test_what_nobody_reads_is_dropped_but_for_random_numbers() -> None:
    graph = mg.capture(lambda x: x.sin().exp() * torch.rand(2), X)
    half = graph.rewritten(results=graph.placeholders)
    drop_unread(half.fx)
    assert targets(half) == [aten.rand.default]
