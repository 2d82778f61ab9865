"""A graph run on values with a look at each of them: the ground that every diagnosis stands on.

for ran in probe(graph, flat):
    print(ran.node, ran.value.abs().max())

Generators are left as they are, and draw in each run what they would draw next: two runs see the same dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from memograd import autocast
from memograd.draws import same_draws
from memograd.graph.graph import Graph
from memograd.graph.interpreter import Call, Ran, called, interpret
from memograd.graph.printing import last_uses
from memograd.ops import is_random


def probe(graph: Graph, flat: Sequence[Any], call: Call = called, keep: Sequence[fx.Node] = ()) -> Iterator[Ran]:
    """Each operator as it has just run on these flat inputs. A value is forgotten behind its last use.

    Args:
        call: what runs an operator.
        keep: nodes whose values are read at the end.
    """
    values = dict(zip(graph.placeholders, flat, strict=True))
    dying = last_uses(graph.nodes, [*graph.results, *keep])
    draws = any(map(is_random, graph.nodes))
    with torch.no_grad(), autocast.off(), same_draws() if draws else nullcontext():
        for ran in interpret(graph.nodes, values, call):
            yield ran
            for node in dying[ran.node]:
                values.pop(node, None)


def results_of(graph: Graph, flat: Sequence[Any], call: Call = called) -> list[Any]:
    """The results of such a run."""
    values = dict(zip(graph.placeholders, flat, strict=True))
    wanted = set(graph.results)
    for ran in probe(graph, flat, call):
        if ran.node in wanted:
            values[ran.node] = ran.value
    return [values[n] for n in graph.results]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors of a value, which may be several."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors_in(part)] if isinstance(value, (tuple, list)) else []


def is_finite(value: Any) -> bool:
    """Whether no number in ``value`` is NaN or infinite."""
    return all(_finite(t) for t in tensors_in(value))


def _finite(tensor: torch.Tensor) -> bool:
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    low, high = torch.aminmax(tensor)  # one pass, NaN goes through
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def largest_of(value: Any) -> float:
    """The largest absolute number in ``value``; NaN where there is one, 0 where there is nothing."""
    sizes = [t.detach().abs().max().double().item() for t in tensors_in(value) if t.numel() and t.dtype != torch.bool]
    return max(sizes, default=0.0, key=lambda size: float("inf") if size != size else size)
