"""Which operator is to blame for a wrong derivative: the first one in the graph whose own derivative disagrees with
finite differences at the values of the run. The chain rule is checked elsewhere; what remains are the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.errors import MemogradError
from memograd.graph.interpreter import interpret
from memograd.pipeline import capture_for
from memograd.rules.registry import lookup
from memograd.transforms.vjp import vjp
from memograd.verify.differences import Flat, central
from memograd.witness.blame import alone

Tensor = torch.Tensor
Agree = Callable[[Tensor, Tensor], bool]


def first_wrong_operator(f: Flat, points: Sequence[Tensor], eps: float, agree: Agree) -> str | None:
    """The operator, its rule and its place in the program, as text; None when every operator is right by itself."""
    graph = capture_for(f, tuple(points), {}, concrete=True)
    values: dict[fx.Node, Any] = dict(zip(graph.placeholders, graph.bind(tuple(points), {}), strict=True))
    for ran in interpret(graph.nodes, values):
        node = ran.node
        if _has_rule(node) and not _agrees(node.target, ran.args, ran.kwargs, eps, agree):
            entry = lookup(node.target)
            rule = f"rule at {entry.file}" if entry is not None else "no rule"
            return f"{node.target} ({rule}), called at {node.meta.get('source', '?')} ({node.meta.get('line', '')})"
    return None


def _has_rule(node: fx.Node) -> bool:
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or target in ops.MARKS:
        return False  # a stop is meant to differ from the derivative
    return torch.Tag.nondeterministic_seeded not in target.tags


def _agrees(target: Any, args: Any, kwargs: Any, eps: float, agree: Agree) -> bool:
    """Whether <u, J v> by differences is <J'u, v> by the table, for random u and v."""
    function, points = alone(target, args, kwargs)
    results = function(*points)
    if not points or not results:
        return True
    generator = torch.Generator().manual_seed(0)
    seeds = tuple(random(y, generator) for y in results)
    try:
        pulled = vjp(function, *points)[1](seeds)
    except MemogradError:
        return False
    for k, x in enumerate(points):
        ways = [random(x, generator) if i == k else torch.zeros_like(p) for i, p in enumerate(points)]
        slopes = central(function, points, ways, eps)
        expected = torch.stack([inner(u, s) for u, s in zip(seeds, slopes, strict=True)]).sum()
        if not agree(inner(pulled[k], ways[k]), expected):
            return False
    return True


def random(like: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor of that shape and dtype."""
    return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real inner product, which is the one the conjugate convention transposes."""
    return (a.conj() * b).real.sum() if a.is_complex() else (a * b).sum()
