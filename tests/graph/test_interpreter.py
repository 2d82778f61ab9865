"""A graph run operator by operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

import memograd as mg
from memograd.graph.interpreter import called, evaluate, interpret

aten = torch.ops.aten
X = torch.tensor([[1.0, 2.0], [3.0, 5.0]])


def test_every_value_is_what_pytorch_computes() -> None:
    graph = mg.capture(lambda x: (x.sin() * x).split(1)[1].sum(0, keepdim=True), X)
    values = evaluate(graph, [X])
    by_target = {n.target: v for n, v in values.items() if n.op == "call_function"}
    torch.testing.assert_close(by_target[aten.sin.default], X.sin())
    torch.testing.assert_close(by_target[aten.split.Tensor], list((X.sin() * X).split(1)))
    torch.testing.assert_close(values[graph.results[0]], (X.sin() * X)[1:])


def test_who_watches_sees_each_operator_before_the_next_one_runs() -> None:
    graph = mg.capture(lambda x: x.sin().exp(), X)
    values: dict[fx.Node, Any] = {graph.placeholders[0]: X}
    ran = interpret(graph.nodes, values)
    first = next(ran)
    assert (first.node.target, first.args, first.kwargs) == (aten.sin.default, (X,), {})
    assert graph.nodes[1] not in values
    values[first.node] = torch.zeros(())
    torch.testing.assert_close(next(ran).value, torch.ones(()))


def test_who_calls_may_run_something_else() -> None:
    graph = mg.capture(lambda x: x.sin().exp(), X)

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        return args[0].cos() if node.target is aten.sin.default else called(node, args, kwargs)

    torch.testing.assert_close(evaluate(graph, [X], call)[graph.results[0]], X.cos().exp())


def test_a_value_may_be_read_in_the_place_of_another() -> None:
    graph = mg.capture(lambda x: x.sin().exp(), X)
    sine, exponential = graph.nodes
    values: dict[fx.Node, Any] = {graph.placeholders[0]: X}
    behind = {sine: graph.placeholders[0]}
    torch.testing.assert_close(next(interpret([exponential], values, behind=behind.__getitem__)).value, X.exp())
