"""Before differentiation: nodes on the path whose operator the table states by simpler operators are replaced by them.

So a backward kernel, whose own derivative nobody wants to write down, is differentiated through its formula.
Only nodes an adjoint will flow through are touched: the others keep their kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd._torch import pytree
from memograd.adjoint.activity import active_nodes
from memograd.graph.graph import Graph
from memograd.rules.registry import lookup
from memograd.tracing.tracer import Tracer


def expand(graph: Graph, sources: Sequence[str], results: Sequence[fx.Node]) -> Graph:
    """``graph`` with expansions inlined on the paths from the inputs named ``sources`` to ``results``.

    Expansions may use operators that are expanded in turn; the pass repeats until none is left.
    """
    names = {node: i for i, node in enumerate(graph.results)}
    positions = [names[r] for r in results]
    while True:
        places = [graph.placeholder(name) for name in sources]
        active = active_nodes(places, [graph.results[i] for i in positions])
        found = {n for n in active if n.op == "call_function" and (e := lookup(n.target)) and e.kind == "expansion"}
        if not found:
            return graph
        graph = _inline(graph, found)


def _inline(graph: Graph, found: set[fx.Node]) -> Graph:
    new = fx.Graph()
    tracer = Tracer(new)
    where: dict[fx.Node, fx.Node] = {}
    parts: dict[fx.Node, list[Any]] = {}  # nodes (or None): results of an expanded operator that has several
    for node in graph.fx.nodes:
        if node.op == "output":
            continue
        operands: Any = node.args
        if node.target is operator.getitem and operands[0] in parts:
            source, index = operands
            where[node] = parts[source][index]
        elif node in found:
            outs = _trace(tracer, node, where)
            if isinstance(node.meta["val"], torch.Tensor):
                where[node] = outs[0]
            else:
                parts[node] = outs
        else:
            where[node] = new.node_copy(node, where.__getitem__)
    new.output(tuple(where[n] for n in graph.results))
    return graph.with_fx(new).verify()


def _trace(tracer: Tracer, node: fx.Node, where: dict[fx.Node, fx.Node]) -> list[Any]:
    entry = lookup(node.target)
    assert entry is not None and entry.function is not None
    keep = {k: v for k, v in node.meta.items() if k != "val"}
    with tracer.rules():
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: tracer.input(where[n]))
        before, tracer.meta = tracer.meta, keep
        out = entry.function(*args, **kwargs)
        pairs = zip(pytree.tree_leaves(out), pytree.tree_leaves(node.meta["val"]), strict=False)
        nodes = [tracer.node_of(_laid_out(o, like)) if isinstance(o, torch.Tensor) else None for o, like in pairs]
        tracer.meta = before
    return nodes


def _laid_out(out: torch.Tensor, like: Any) -> torch.Tensor:
    """``out`` in the memory layout of the result it stands for, on which the views that follow it count."""
    if not isinstance(like, torch.Tensor) or out.shape != like.shape:
        return out
    if all(n < 2 or a == b for n, a, b in zip(out.shape, out.stride(), like.stride(), strict=True)):
        return out
    outwards = sorted(range(like.dim()), key=like.stride, reverse=True)
    return out.permute(outwards).contiguous().permute([outwards.index(d) for d in range(like.dim())])
