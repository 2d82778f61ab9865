"""Faults to plant: a wrong rule, a stop too many, a wrong new value, a wrong kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from memograd import ops
from memograd.graph.graph import Graph
from memograd.rules import registry

aten = torch.ops.aten


def rule(patch: pytest.MonkeyPatch, operator: Any, change: Callable[[Any], Any]) -> None:
    """Let ``change`` loose on what the rule of ``operator`` returns."""
    entry = registry._TABLE[operator]
    right = entry.function
    assert right is not None

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out = right(*args, **kwargs)
        return tuple(change(list(out))) if isinstance(out, tuple) else change([out])[0]

    patch.setitem(registry._TABLE, operator, dataclasses.replace(entry, function=wrong))


def scaled(parts: list[Any], by: float = 1.05) -> list[Any]:
    return [p if p is None else p * by for p in parts]


def without(index: int) -> Callable[[list[Any]], list[Any]]:
    return lambda parts: [None if k == index else p for k, p in enumerate(parts)]


def stop_behind(graph: Graph, operator: Any) -> Graph:
    """No gradient flows through the results of ``operator`` any more."""
    new, where = fx.Graph(), {}
    for node in graph.fx.nodes:
        if node.op != "output":
            where[node] = new.node_copy(node, where.__getitem__)
            if node.target is operator:
                where[node] = new.call_function(ops.stop, (where[node],))
                where[node].meta = dict(node.meta)
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new)


def never_written(graph: Graph, name: str) -> Graph:
    """The new value of ``name`` is the old one."""
    place = [o.kind == "mutation" and o.name == name for o in graph.outputs].index(True)
    results = list(graph.results)
    results[place] = graph.placeholder(name)
    new, where = graph.copy()
    new.output(tuple(where[n] for n in results))
    return graph.with_fx(new)


def wrong_operator(graph: Graph, right: Any, wrong: Any) -> Graph:
    """The first ``right`` in the graph computes ``wrong``."""
    new, where = graph.copy()
    next(n for n in new.nodes if n.target is right).target = wrong
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new)


def doubled(graph: Graph, operator: Any) -> Graph:
    """The last result of ``operator`` in the graph is twice what it was."""
    last = [n for n in graph.nodes if n.target is operator][-1]
    new, where = fx.Graph(), {}
    for node in graph.fx.nodes:
        if node.op != "output":
            where[node] = new.node_copy(node, where.__getitem__)
            if node is last:
                where[node] = new.call_function(torch.ops.aten.add.Tensor, (where[node], where[node]))
                where[node].meta = dict(node.meta)
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new)
