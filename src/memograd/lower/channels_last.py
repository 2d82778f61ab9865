"""Images with their channels last, where this device convolves them as fast so.

Convolutions are told to take their operands that way; what follows them keeps the layout, since the graph is recorded
anew. It takes less workspace, for many kernels bring images into such an order first. What it costs in time is measured
on the heaviest convolutions of the step, once for each geometry in a process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from memograd import clock
from memograd.graph.graph import Graph
from memograd.lower.retrace import retrace

aten = torch.ops.aten
_HEAVIEST, _TRIALS = 8, 4
_CLEARLY = 1.1  # times as long: slower than what timings err by
_OPERANDS = {aten.convolution.default: 1, aten.convolution_backward.default: 2}  # how many come first that are images


def layouts(graph: Graph) -> tuple[bool, ...]:
    """Whether images lie channels last, for each layout that ``graph`` can have; the better one first."""
    convolutions = _convolutions(graph)
    if not convolutions or any(n.target is aten.as_strided.default for n in graph.nodes):
        return (False,)
    if any(_channels(n) == 1 for n in convolutions):  # both layouts are the same then, and kernels take it for either
        return (False,)
    return (False, True) if _is_slower(convolutions) else (True, False)


def channels_last(graph: Graph) -> Graph:
    """``graph`` with its 2-d convolutions on channels-last images."""
    return retrace(graph, {t: _on_channels_last(t, n) for t, n in _OPERANDS.items()})


def _convolutions(graph: Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.target in _OPERANDS and _is_flat(n)]


def _is_slower(convolutions: list[fx.Node]) -> bool:
    forms = {(n.target, _form(n)): n for n in sorted(convolutions, key=_work)}
    heaviest = list(forms)[-_HEAVIEST:]
    before, after = (sum(_seconds(*form, last) for form in heaviest) for last in (False, True))
    return after > _CLEARLY * before


def _on_channels_last(target: Any, count: int) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if args[0].dim() != 4:  # sequences and volumes stay as they are
            return target(*args)
        images = [x.contiguous(memory_format=torch.channels_last) for x in args[:count]]
        return target(*images, *args[count:])

    return call


def _is_flat(node: fx.Node) -> bool:
    return all(x.meta["val"].dim() == 4 for x in node.args[:1])  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def _channels(node: fx.Node) -> int:
    """The fewest channels among the images of a convolution."""
    target: Any = node.target
    images: Any = [*node.args[: _OPERANDS[target]], node]
    return min(x.meta["val"].shape[1] for x in images if isinstance(x.meta["val"], torch.Tensor))


def _work(node: fx.Node) -> int:
    """Multiplications of a convolution, up to a factor."""
    operands: Any = node.args
    backward = node.target is aten.convolution_backward.default
    weight = operands[2 if backward else 1].meta["val"]
    out = operands[0].meta["val"] if backward else node.meta["val"]
    return (2 if backward else 1) * out.numel() * weight[0].numel()


def _form(node: fx.Node) -> Any:
    def frozen(value: Any) -> Any:
        if isinstance(value, fx.Node):
            tensor = value.meta["val"]
            return (tuple(tensor.shape), tensor.dtype, tensor.device)
        return tuple(value) if isinstance(value, list) else value

    return tuple(map(frozen, node.args))


@lru_cache(maxsize=1024)
def _seconds(target: Any, form: Any, last: bool) -> float:
    """The best of a few runs on made-up data."""
    layout = torch.channels_last if last else torch.contiguous_format
    args: list[Any] = []
    for k, value in enumerate(form):
        if isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], torch.dtype):
            shape, dtype, device = value
            filled = torch.full(shape, 0.5, dtype=dtype, device=device)
            args.append(filled.contiguous(memory_format=layout) if k < _OPERANDS[target] else filled)
        else:
            args.append(list(value) if isinstance(value, tuple) else value)
    with torch.no_grad():
        return clock.seconds(lambda: target(*args), _TRIALS)
