"""Numbers that grow until they overflow: from time step to time step of a recurrence, from layer to layer, or from one
training step to the next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import fx

from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.replay import Step, mended
from memograd.doctor.probes import largest_of, tensors_in
from memograd.graph.reach import ancestors

_TIMES = 4  # of one operator on one line, from which it is a recurrence
_FACTOR = 1e3  # from the first to the last of them
_SHOWN = 6
_HUGE = 1e4  # no weight of a healthy network is as large


def recurrence(step: Step, producer: Producer) -> list[float]:
    """How large the results of this operator on this line were, one time step after the other, if they grew until this
    one; else nothing."""
    key = _line(producer.node)
    if key is None or producer.is_input:
        return []
    alike = [n for n in step.joint.nodes if _line(n) == key]
    alike = alike[: alike.index(producer.node) + 1]
    if len(alike) < _TIMES:
        return []
    sizes = sizes_of(step, producer, alike)
    before = [s for s in sizes[:-1] if s > 0]
    grows = len(before) >= _TIMES - 1 and before[-1] > _FACTOR * before[0] and _mostly_up(before)
    return sizes if grows else []


def layers(step: Step, producer: Producer) -> list[float]:
    """The same along the matrix products and convolutions that lead there, one layer after the other."""
    if producer.is_input:
        return []
    above: list[fx.Node] = []
    before = ancestors([producer.node])
    products = ("mm", "addmm", "bmm", "baddbmm", "convolution", "matmul")
    phase = producer.is_backward
    for node in step.joint.nodes:
        name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if node in before and name in products and ("adjoint_of" in node.meta) == phase:
            above.append(node)
    if len(above) < _TIMES:
        return []
    sizes = [s for s in sizes_of(step, producer, above) if s > 0]
    return sizes if len(sizes) >= _TIMES and sizes[-1] > _FACTOR * sizes[0] and _mostly_up(sizes) else []


def sizes_of(step: Step, producer: Producer, nodes: Sequence[fx.Node]) -> list[float]:
    """The largest absolute number in the results of ``nodes``; infinity where one is not finite."""
    calls = mended(step, producer.alone, set(nodes)).calls
    sizes = [largest_of(calls[n][2]) if n in calls else 0.0 for n in nodes]
    return [math.inf if math.isnan(s) else s for s in sizes]


def training(step: Step) -> list[float]:
    """The losses of the last steps, if they grew ever faster; else nothing."""
    last = [abs(loss) for loss in step.trail]
    if len(last) < 2:
        return []
    low = min(range(len(last)), key=last.__getitem__)
    rising = last[low:]
    grew = len(rising) >= 2 and rising[-1] > _FACTOR * max(rising[0], 1e-6) and _mostly_up(rising)
    return rising if grew else []


def from_the_first(step: Step) -> bool:
    """Whether the numbers were beyond all measure before any update: not the learning rate has done it."""
    return bool(step.trail) and step.number <= len(step.trail) and step.trail[0] > _HUGE**2


def heaviest(step: Step) -> tuple[str, float]:
    """The parameter with the largest weight, and that weight."""
    sizes = {
        step.shown(i.name): largest_of(t)
        for i, t in zip(step.joint.inputs, step.flat, strict=True)
        if i.kind == "parameter" and isinstance(t, torch.Tensor) and tensors_in(t)
    }
    return max(sizes.items(), key=lambda pair: math.inf if math.isnan(pair[1]) else pair[1], default=("", 0.0))


def is_huge(weight: float) -> bool:
    """Whether no healthy network has such a weight."""
    return not weight < _HUGE


def shown(sizes: Sequence[float]) -> str:
    """Some of them, the first and the last ones: ``1.2, 35, 980, ..., 3e+37``."""
    texts = [f"{s:.3g}" for s in sizes]
    if len(texts) > _SHOWN:
        texts = [*texts[:3], "...", *texts[-3:]]
    return ", ".join(texts)


def _line(node: fx.Node) -> object:
    source = node.meta.get("source")
    return (source, node.target, "adjoint_of" in node.meta) if source else None


def _mostly_up(sizes: Sequence[float]) -> bool:
    ups = sum(b >= a for a, b in itertools.pairwise(sizes))
    return ups >= 0.7 * (len(sizes) - 1)
