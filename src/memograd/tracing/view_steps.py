"""A view as a step that is taken again, and backwards: what a base becomes when its view becomes another value."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from memograd.errors import CaptureError
from memograd.tracing.layouts import as_kernel
from memograd.tracing.strided import in_order

aten = torch.ops.aten
Emit = Callable[[Any, Any, Any, Any], fx.Node]
Step = tuple[Any, tuple[Any, ...], dict[str, Any], int | None]  # view operator, its further arguments, output index


def applied(step: Step, node: fx.Node, value: torch.Tensor, emit: Emit) -> fx.Node:
    """The view of ``node`` by ``step``, as large as ``value``."""
    func, args, kwargs, index = step
    if func is aten.as_strided.default:
        node = in_order(node, emit)
    out = emit(func, (node, *args), kwargs, value)
    return out if index is None else emit(operator.getitem, (out, index), {}, value)


def inverted(step: Step, before: fx.Node, new: fx.Node, fake: torch.Tensor, emit: Emit) -> fx.Node:
    """What ``before`` becomes when its view by ``step`` becomes ``new``."""
    func, args, kwargs, index = step
    packet = func.overloadpacket
    if func is aten.alias.default:
        return new
    if packet in (aten.view, aten._reshape_alias, aten.squeeze, aten.unsqueeze):
        if func is aten.view.dtype:
            return emit(func, (new, fake.dtype), {}, fake)
        return emit(aten.reshape.default, (new, list(fake.shape)), {}, fake)
    if packet is aten.t:
        return emit(aten.t.default, (new,), {}, fake)
    if packet is aten.transpose:
        return emit(func, (new, *args), kwargs, fake)
    if packet is aten.permute:
        order = [d % fake.dim() for d in args[0]]
        return emit(func, (new, [order.index(d) for d in range(fake.dim())]), {}, fake)
    if packet in (aten.select, aten.slice) and fake.is_complex():
        return _complex_part(packet, args, before, new, fake, emit)
    if packet in (aten.select, aten.slice, aten.diagonal, aten.as_strided):
        before = in_order(before, emit) if packet is aten.as_strided else before
        scatter = getattr(aten, packet.__name__.removeprefix("aten.") + "_scatter").default
        return emit(scatter, (before, new, *args), kwargs, fake)
    if packet in (aten.unbind, aten.split, aten.split_with_sizes):
        return _invert_part(packet, args, kwargs, index or 0, before, new, fake, emit)
    if packet in (aten._conj, aten._neg_view):
        return emit(aten.conj_physical.default if packet is aten._conj else aten.neg.default, (new,), {}, fake)
    if packet in (aten.view_as_real, aten.view_as_complex):
        other = aten.view_as_complex if packet is aten.view_as_real else aten.view_as_real
        return emit(other.default, (new,), {}, fake)
    raise CaptureError(
        f"an in-place write through the view {func} (at {before.meta.get('source', '?')}) cannot be written as a "
        "value; clone the view before writing to it"
    )


def _complex_part(packet: Any, args: Any, before: fx.Node, new: fx.Node, fake: torch.Tensor, emit: Emit) -> fx.Node:
    """Inverse of ``select`` and ``slice`` of complex numbers, on their two parts: autograd cannot differentiate
    ``select_scatter`` and ``slice_scatter`` of complex numbers, and a graph may run inside another program."""
    scatter = aten.select_scatter.default if packet is aten.select else aten.slice_scatter.default
    dim, *rest = args or (0,)
    pairs = [_worked_out(z, emit) for z in (before, new)]
    parts = [emit(aten.view_as_real.default, (z,), {}, torch.view_as_real(z.meta["val"])) for z in pairs]
    written_to = parts[0].meta["val"]
    like = as_kernel(scatter, (written_to,), written_to.new_empty_strided(written_to.shape, written_to.stride()))
    written = emit(scatter, (*parts, dim % fake.dim(), *rest), {}, like)
    return emit(aten.view_as_complex.default, (written,), {}, torch.view_as_complex(like))


def _worked_out(node: fx.Node, emit: Emit) -> fx.Node:
    """``node`` with its conjugates computed, where they are a mark on the tensor so far."""
    if not node.meta["val"].is_conj():
        return node
    plain = emit(aten._conj.default, (node,), {}, node.meta["val"].conj())
    return emit(aten.conj_physical.default, (plain,), {}, torch.conj_physical(plain.meta["val"]))


def _invert_part(
    packet: Any, args: Any, kwargs: Any, index: int, before: fx.Node, new: fx.Node, fake: torch.Tensor, emit: Emit
) -> fx.Node:
    """Inverse of one output of unbind or split."""
    if packet is aten.unbind:
        dim = args[0] if args else kwargs.get("dim", 0)
        return emit(aten.select_scatter.default, (before, new, dim, index), {}, fake)
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    sizes = args[0] if packet is aten.split_with_sizes else None
    start = sum(sizes[:index]) if sizes is not None else args[0] * index
    length = sizes[index] if sizes is not None else args[0]
    end = min(start + length, fake.shape[dim])
    return emit(aten.slice_scatter.default, (before, new, dim, start, end), {}, fake)
