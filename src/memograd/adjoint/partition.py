"""Cut a differentiated graph in two: what can run before the cotangents are known, and the rest.

The first graph returns the results and every value the second one reads: those are computed once and remembered, so
a random mask drawn in the forward pass is the one the backward pass sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.reach import ancestors, behind_cotangents
from memograd.graph.views import is_view, owner, viewed
from memograd.ops import has_effect, is_random

aten = torch.ops.aten
_FEW = 16  # bytes: a number
_ARITHMETIC = {
    *(aten.mul.Tensor, aten.mul.Scalar, aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.neg.default),
    *(aten.tanh_backward.default, aten.sigmoid_backward.default),
}


@dataclass(frozen=True)
class Halves:
    """``forward(*inputs) -> (results..., saved...)`` and ``backward(*saved, *cotangents) -> (gradients...)``."""

    forward: Callable[..., tuple[torch.Tensor, ...]]
    backward: Callable[..., tuple[torch.Tensor, ...]]
    results: int


def partition(joint: Graph) -> Halves:
    """Cut ``joint`` at its cotangents."""
    forward, backward = cut(joint)
    return Halves(forward.function, backward.function, len(joint.outputs) - len(joint.positions("gradient")))


def cut(joint: Graph, fused: bool = False, as_read: bool = False) -> tuple[Graph, Graph]:
    """Two graphs: the results, then what is to be saved; and, of this and the cotangents, the gradients.

    Args:
        fused: kernels will be fused, so that some arithmetic takes no time beside the reading of its operands: where
            these have to be saved anyway, what is computed of them is not.
        as_read: save what the rules read, views too, as autograd does: what they compute of it they compute behind.
    """
    pairs = list(zip(joint.placeholders, joint.inputs, strict=True))
    gradients = joint.positions("gradient")
    others = [k for k in range(len(joint.outputs)) if k not in gradients]
    late = behind_cotangents(joint)
    if as_read:
        late |= set(joint.nodes) - _own(joint, others)
    else:
        late = _put_off(joint, late, {joint.results[k] for k in others})
    read: dict[fx.Node, None] = {}
    for node in joint.nodes:
        if node in late:
            read.update(dict.fromkeys(n for n in node.all_input_nodes if n not in late))
    read.update(dict.fromkeys(joint.results[k] for k in gradients if joint.results[k] not in late))
    again = set() if as_read else _views(read)
    if fused:
        again |= _recomputed(joint, read, again)
    saved = [n for n in read if n not in again and isinstance(n.meta["val"], torch.Tensor)]
    early = [*(n for n, i in pairs if i.kind != "cotangent"), *(n for n in joint.nodes if n not in late)]
    forward = joint.with_fx(
        part([], early, [*(joint.results[k] for k in others), *saved]),
        inputs=tuple(i for _, i in pairs if i.kind != "cotangent"),
        outputs=(*(joint.outputs[k] for k in others), *(Output("output", f"saved {k}") for k in range(len(saved)))),
    )
    cotangents = [(n, i) for n, i in pairs if i.kind == "cotangent"]
    backward = joint.with_fx(
        part(
            [*saved, *(n for n, _ in cotangents)],
            [n for n in joint.nodes if n in late or n in again],
            [joint.results[k] for k in gradients],
        ),
        inputs=(*(Input("input", f"saved {k}") for k in range(len(saved))), *(i for _, i in cotangents)),
        outputs=tuple(joint.outputs[k] for k in gradients),
    )
    return forward, backward


def part(given: list[fx.Node], nodes: list[fx.Node], results: list[fx.Node]) -> fx.Graph:
    """A graph of ``nodes``; ``given`` are placeholders there, whatever they are here."""
    new, where = fx.Graph(), {}
    for node in given:
        where[node] = new.placeholder(node.name)
        where[node].meta = dict(node.meta)
    for node in nodes:
        where[node] = new.node_copy(node, where.__getitem__)
    new.output(tuple(where[n] for n in results))
    return new


def _own(joint: Graph, others: list[int]) -> set[fx.Node]:
    """What these results of ``joint`` are computed of, and what happens whether it is read or not."""
    happening = [n for n in joint.nodes if is_random(n) or has_effect(n)]
    return ancestors([*happening, *(joint.results[k] for k in others)])


def _put_off(joint: Graph, late: set[fx.Node], results: set[fx.Node]) -> set[fx.Node]:
    """``late``, and what it alone reads (``cos(x)``, for the derivative of ``sin(x)``) where no more has to be
    remembered for that than its own bytes."""
    late = set(late)
    for node in reversed(joint.nodes):
        readers = [n for n in node.users if n.op != "output"]
        alone = node not in late and node not in results and bool(readers) and late.issuperset(readers)
        if not alone or is_random(node) or has_effect(node) or viewed(node) is not None or not _bytes(node):
            continue
        operands = dict.fromkeys(owner(n) for n in node.all_input_nodes)
        if sum(_bytes(n) for n in operands if not _is_read(n, late)) <= _bytes(node):
            late.add(node)
    return late


def _is_read(node: fx.Node, late: set[fx.Node]) -> bool:
    """Whether something in ``late`` reads its memory."""
    return any(n in late or (is_view(n) and _is_read(n, late)) for n in node.users)


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _views(read: dict[fx.Node, None]) -> set[fx.Node]:
    """The views among the values that are ``read``: they are made again of what they look at, which is read instead.
    (Who remembers both a tensor and a view of it remembers one of them in vain, and autograd's own results so that they
    never die.)"""
    views: set[fx.Node] = set()
    waiting = list(read)
    while waiting:
        node = waiting.pop()
        if is_view(node) and node not in views:
            views.add(node)
            for operand in node.all_input_nodes:
                read[operand] = None
                waiting.append(operand)
    return views


def _recomputed(joint: Graph, read: dict[fx.Node, None], views: set[fx.Node]) -> set[fx.Node]:
    """Those of the values that are ``read``, and what they are made of, which are computed again: arithmetic whose
    operands are read, too, or are from now on and take no more bytes. What is returned is there anyway."""
    recomputed: set[fx.Node] = set()
    stay = views.union(joint.results)
    for node in reversed(joint.nodes):
        if node not in read or node in stay or not _cheap(node):
            continue
        more, between = [], []
        for operand in node.all_input_nodes:
            if operand not in read:
                inner = _cheap(operand) and operand not in stay and read.keys() >= set(operand.all_input_nodes)
                (between if inner else more).append(operand)
        if sum(map(_bytes, more)) <= _bytes(node) and not any(map(is_view, more)):
            recomputed.update((node, *between))
            read.update(dict.fromkeys(more))
    return recomputed


def _cheap(node: fx.Node) -> bool:
    """Whether ``node`` is arithmetic of operands of its own size, and of numbers."""
    if node.target not in _ARITHMETIC or viewed(node) is not None:
        return False
    size = _bytes(node)
    return all(_bytes(n) == size or _bytes(n) <= _FEW for n in node.all_input_nodes)


def gather(halves: Halves, flat: list[Any]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Run the first half: (results, saved values)."""
    out = halves.forward(*flat)
    return out[: halves.results], out[halves.results :]
