"""Numbers of a graph, as few as a page can show: each value summed up at the moment it is computed, then freed."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from memograd.graph.graph import Graph
from memograd.graph.printing import last_uses

NUMBERS = 64  # elements of a tensor of which all are shown
COARSE = 16  # rows and columns of a heat map, FINE ones where there are few tensors
FINE = 28
_SLICES = 4  # heat maps of a tensor with more than two dimensions


def visit(graph: Graph, flat: Sequence[Any], see: Callable[[fx.Node, Any], None]) -> None:
    """Run ``graph`` on its flat inputs and show ``see`` each node with its value; values are freed behind their last
    use."""
    nodes = graph.nodes
    last = last_uses(nodes, [])
    values: dict[fx.Node, Any] = dict(zip(graph.placeholders, flat, strict=True))
    with torch.no_grad():
        for node in graph.placeholders:
            see(node, values[node])
        for node in nodes:
            target: Any = node.target
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = target(*args, **kwargs)
            see(node, values[node])
            del args, kwargs
            for done in last[node]:
                del values[done]


def summary(value: Any, pixels: int = COARSE, most: int = NUMBERS) -> dict[str, Any] | None:
    """A tensor for the page: geometry, least, largest and mean number, share of zeros, and all numbers, or heat maps
    where there are many. None for what is no tensor."""
    if not isinstance(value, torch.Tensor):
        return None
    described: dict[str, Any] = {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
    }
    if value.is_complex():
        described["complex"] = True  # what follows is about absolute values
        value = value.abs()
    flat = value.detach().reshape(-1)
    if not flat.numel():
        return described
    if not flat.is_floating_point() or flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.to(torch.float32 if flat.is_floating_point() else torch.float64)
    finite = flat
    low, high = (x.item() for x in flat.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = flat[flat.isfinite()]
        low, high = (x.item() for x in finite.aminmax()) if finite.numel() else (0.0, 0.0)
    described["zeros"] = round(1 - flat.count_nonzero().item() / flat.numel(), 6)
    described["notFinite"] = flat.numel() - finite.numel()
    if finite.numel():
        digits = 17 if flat.dtype == torch.float64 else 9
        described |= {"min": number(low, digits), "max": number(high, digits)}
        described["mean"] = number(finite.mean().item(), digits)
    if flat.numel() <= most:
        digits = 17 if flat.dtype == torch.float64 else 9  # which are enough to tell all numbers of the type apart
        described["numbers"] = [number(x, digits) for x in flat.tolist()]
    elif finite.numel():
        described["maps"] = _maps(flat.reshape(value.shape), low, high, pixels)
    return described


def number(x: float, digits: int = 17) -> float | str:
    """JSON has no infinities: they are words."""
    if not math.isfinite(x):
        return str(x)
    return x if digits == 17 else float(f"{x:.{digits}g}")


def _maps(value: torch.Tensor, low: float, high: float, pixels: int) -> dict[str, Any]:
    """The first slices along the last two dimensions, each averaged to so many cells a side, as bytes from ``low``
    (0) to ``high`` (255)."""
    if value.dim() == 1:
        value = _folded(value)
    slices = value.reshape(-1, *value.shape[-2:])
    shown = slices[:_SLICES].float().nan_to_num(low, high, low)
    size = (min(pixels, shown.shape[-2]), min(pixels, shown.shape[-1]))
    pooled = F.adaptive_avg_pool2d(shown[:, None], size)[:, 0]
    scale = 255 / (high - low) if high > low else 0.0
    cells = ((pooled - low) * scale).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
    return {
        "rows": size[0],
        "columns": size[1],
        "of": len(slices),
        "cells": base64.b64encode(cells.numpy().tobytes()).decode(),
    }


def _folded(value: torch.Tensor) -> torch.Tensor:
    """A long vector as rows; zeros fill the last one."""
    columns = min(len(value), max(COARSE, math.isqrt(len(value))))
    return F.pad(value, (0, -len(value) % columns)).reshape(-1, columns)


def as_json(of: Mapping[Any, Any], node: fx.Node | None) -> Any:
    """The summary of a node that may be none."""
    return None if node is None else of.get(node)
