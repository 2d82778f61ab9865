"""Gradients that lie in memory of their own.

Autograd takes a gradient that nobody else holds for the parameter's ``.grad``, and from then on the loop writes to it:
clipping, hooks, an all-reduce. A view passes for such a gradient, whoever else looks at its memory. So two gradients
that are views of one tensor would be clipped twice, and a hook that writes to one that the rest of the backward pass
reads would change others. What this could happen to is copied, by an operator of the graph, so that a plan counts it.

Who calls a transform keeps what it returns: the gradient of ``(x * w).sum()`` has the numbers of ``w``, and is another
tensor.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.reach import behind_cotangents
from memograd.graph.views import is_view, owner
from memograd.ops import MARKS, WRITES


def own_memory(joint: Graph, to_autograd: bool = True) -> Graph:
    """``joint`` with copies of those gradients whose memory somebody else looks at; ``to_autograd``: as far as autograd
    needs them, which hands on a gradient of an input as it comes."""
    shared = _shared(joint, to_autograd)
    if not shared:
        return joint
    new, where = joint.copy()
    results = [where[n] for n in joint.results]
    for k in shared:
        of = joint.results[k]
        results[k] = new.call_function(torch.ops.aten.clone.default, (where[of],))
        results[k].meta = {**of.meta, "val": of.meta["val"].clone()}
    new.output(tuple(results))
    return joint.with_fx(new).verify()


def _shared(joint: Graph, to_autograd: bool) -> list[int]:
    """The gradients, by position among the results, that share memory: two of them, or one with a result, with what
    the program was given, with what waits between the two passes, or with what an operator reads."""
    late = behind_cotangents(joint)
    readers = [n for n in joint.nodes if not is_view(n) and n.target not in MARKS]
    read = {_memory(n) for node in readers for n in node.all_input_nodes}
    returned = Counter(_memory(n) for n in joint.results)
    kinds = {i.name: i.kind for i in joint.inputs}
    shared: list[int] = []
    for k in joint.positions("gradient"):
        memory = _memory(joint.results[k])
        if to_autograd:
            passed_on = kinds[joint.outputs[k].name] != "parameter"  # to who made the input: as PyTorch does
            alone = passed_on or (memory in late and memory not in read)
        else:
            alone = memory.op != "placeholder"
        if returned[memory] > 1 or not alone:
            shared.append(k)
    return shared


def _memory(node: fx.Node) -> fx.Node:
    """The node whose memory ``node`` has in the graph that runs, where a mark is the tensor it marks."""
    while (base := owner(node)).target in MARKS:
        node = base.args[1 if base.target in WRITES else 0]  # pyright: ignore[reportAssignmentType]
    return base
