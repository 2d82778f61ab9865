"""Before differentiation: nodes on the path whose operator the table states by simpler operators are replaced by them.

So a backward kernel, whose own derivative nobody wants to write down, is differentiated through its formula.
Only nodes an adjoint will flow through are touched: the others keep their kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd._torch import pytree
from memograd.adjoint.activity import active_nodes
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.rules.registry import lookup, stated
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
        expanded = {n for n in active if n.op == "call_function" and (e := lookup(n.target)) and e.kind == "expansion"}
        if not expanded:
            return graph
        graph = _inline(graph, expanded)


def _inline(graph: Graph, expanded: set[fx.Node]) -> Graph:
    new = Rewriting()
    tracer = Tracer(new.fx)

    def visit(new: Rewriting, node: fx.Node) -> Any:
        if node not in expanded:
            return new.copy(node)
        parts = _trace(tracer, node, new.where)
        return parts[0] if isinstance(node.meta["val"], torch.Tensor) else parts

    return graph.rewritten(visit, new=new).verify()


def _trace(tracer: Tracer, node: fx.Node, where: dict[fx.Node, fx.Node]) -> list[Any]:
    entry = lookup(node.target)
    assert entry is not None
    with tracer.rules(), tracer.labelled(node.meta):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: tracer.input(where[n]))
        out = stated(entry, args, kwargs)
        pairs = zip(pytree.tree_leaves(out), pytree.tree_leaves(node.meta["val"]), strict=False)
        return [tracer.node_of(_laid_out(o, like)) if isinstance(o, torch.Tensor) else None for o, like in pairs]


def _laid_out(out: torch.Tensor, like: Any) -> torch.Tensor:
    """``out`` in the memory layout of the result it stands for, on which the views that follow it count."""
    if not isinstance(like, torch.Tensor) or out.shape != like.shape:
        return out
    if all(n < 2 or a == b for n, a, b in zip(out.shape, out.stride(), like.stride(), strict=True)):
        return out
    outwards = sorted(range(like.dim()), key=like.stride, reverse=True)
    return out.permute(outwards).contiguous().permute([outwards.index(d) for d in range(like.dim())])
