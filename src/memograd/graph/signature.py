"""How a graph is called: the user's arguments as the flat list of tensors it reads, and its flat results as what the
program returns, with everything written back that the program writes.

A graph is right for the structure, shapes, dtypes and memory layouts it was captured with; whatever else arrives is
refused here, by the argument's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

import torch

from memograd import autocast
from memograd._torch import attributes_of, is_wrapped, memory_of, pytree, surrounded, without_function_modes
from memograd.errors import CaptureError
from memograd.graph.bits import has_bits, worked_out
from memograd.graph.entries import Calling, Input, Output
from memograd.graph.overlap import overlapping


def run(function: Callable[..., Any], flat: Sequence[Any]) -> Any:
    """Call a graph's function as it was captured: autocast, and the modes that were on, are part of the graph already
    and must not act twice."""
    if not surrounded():
        return function(*flat)
    with autocast.off(), without_function_modes():
        return function(*flat)


def distinct(value: Any) -> Any:
    """What equals that of another value only where no program can tell the two apart: 0.0 equals -0.0, by which it can
    be divided, ``slice(1)`` equals ``slice(True)``, and nan does not equal itself."""
    return repr(value) if isinstance(value, (float, complex, slice)) else value


def same(left: Any, right: Any) -> bool:
    """Equality of two leaves that are no tensors; never raises."""
    if left is right:
        return True
    try:
        return type(left) is type(right) and bool(distinct(left) == distinct(right))
    except Exception:  # objects with an exotic ==
        return False


def leaves_of(calling: Calling, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The leaves of a call's arguments, which must be nested as at capture, with the same values besides tensors."""
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    if spec != calling.in_spec:
        raise CaptureError(f"the arguments have the structure {spec}, the graph was captured with {calling.in_spec}")
    for leaf, baked, name in zip(leaves, calling.in_leaves, calling.in_names, strict=True):
        if not isinstance(leaf, torch.Tensor) and not same(leaf, baked):
            raise CaptureError(f"argument {name!r} is {leaf!r}, the graph was captured with {baked!r}; capture again")
    for k, before in zip(calling.tensor_in, calling.in_notes, strict=False):
        now = attributes_of(leaves[k]) if isinstance(leaves[k], torch.Tensor) else {}
        if now.keys() != before.keys() or not all(same(now[name], before[name]) for name in now):
            raise CaptureError(
                f"argument {calling.in_names[k]!r} has the attributes {now}, and had {before} when the graph was "
                "captured, by which a program may go; capture again"
            )
    return leaves


def fit(entry: Input, traced: torch.Tensor, tensor: Any, written: bool) -> torch.Tensor:
    """``tensor`` as the graph may read it for ``entry``, which was captured as ``traced``; ``written`` says whether
    the program writes to it."""
    if not isinstance(tensor, torch.Tensor):
        raise CaptureError(f"argument {entry.name!r} must be a tensor, got {type(tensor).__name__}")
    if tensor.shape != traced.shape or tensor.dtype != traced.dtype:
        raise CaptureError(
            f"argument {entry.name!r} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; the graph was captured "
            f"with {tuple(traced.shape)} and {traced.dtype}; capture again for other shapes"
        )
    if not has_bits(tensor):
        return _laid_out(entry, traced, tensor, written)
    if written:
        raise CaptureError(
            f"{entry.name!r}, which is written to, is a conjugated or negated view (its numbers are others than those "
            "in its memory); work it out before: x.resolve_conj().resolve_neg()"
        )
    return _laid_out(entry, traced, worked_out(tensor), written)


def refuse_shared(inputs: Sequence[Input], written: Set[str], flat: Sequence[Any]) -> None:
    """Refuse what lies in the memory of a tensor that the program writes to (``written``, by name): a graph takes the
    two for two, and would not see the write through the other one.

    Raises:
        CaptureError: two do; it names them.
    """
    if not written:
        return
    for k, j in overlapping(flat):
        first, second = inputs[k].name, inputs[j].name
        if second in written:
            first, second = second, first
        if first in written:
            raise CaptureError(
                f"{first!r}, which the program writes to, lies in the same memory as {second!r}: the graph takes them "
                "for two tensors, and one would not see what is written to the other; pass a copy of one of them"
            )


def may_share(inputs: Sequence[Input], written: Set[str], flat: Sequence[Any]) -> bool:
    """Whether an argument may lie in memory that is written to, or is written to itself; what the graph is bound to was
    looked at before."""
    pairs = list(zip(inputs, flat, strict=True))
    if any(i.tensor is None and i.name in written for i, _ in pairs):
        return True
    memory = {memory_of(t) for i, t in pairs if i.name in written}
    return any(i.tensor is None and memory_of(t) in memory for i, t in pairs)


def output_tree(
    calling: Calling, values: Sequence[torch.Tensor], made: Mapping[int, Any] = MappingProxyType({})
) -> Any:
    """The user's results, nested as the program returned them; ``made``: leaves that are no tensors, by position."""
    leaves = list(calling.out_leaves)
    for position, value in (*zip(calling.tensor_out, values, strict=True), *made.items()):
        leaves[position] = value
    return pytree.tree_unflatten(leaves, calling.out_spec)


def write_mutations(
    inputs: Sequence[Input], outputs: Sequence[Output], results: Sequence[Any], flat: Sequence[Any]
) -> None:
    """Copy every ``mutation`` output into the input it is the new value of: a buffer, or a tensor the caller passed."""
    names = [i.name for i in inputs]
    with torch.no_grad():
        for entry, value in zip(outputs, results, strict=False):
            if entry.kind == "mutation":
                flat[names.index(entry.name)].copy_(value)


def _laid_out(entry: Input, traced: torch.Tensor, tensor: torch.Tensor, written: bool) -> torch.Tensor:
    """``tensor`` in the memory layout the graph was traced with, on which its operators count: a ``contiguous()``, for
    one, is no operator where the tensor was contiguous already, and some kernels read memory as it lies. (A batch of
    ``vmap`` lies as it lies; who runs a graph on one has seen to that.)"""
    pairs = zip(tensor.shape, tensor.stride(), traced.stride(), strict=True)
    if tensor.numel() == 0 or is_wrapped(tensor) or all(n == 1 or there == here for n, there, here in pairs):
        return tensor
    if written:
        raise CaptureError(
            f"argument {entry.name!r}, which the program writes to, has strides {tensor.stride()}; the graph was "
            f"captured with {traced.stride()}; capture again, or pass a copy"
        )
    layout = torch.empty_strided(traced.shape, traced.stride(), dtype=tensor.dtype, device=tensor.device)
    try:
        return layout.copy_(tensor)
    except RuntimeError as error:
        raise CaptureError(
            f"argument {entry.name!r} was captured with several elements at one place in memory (strides "
            f"{traced.stride()}); this one has strides {tensor.stride()}: capture again"
        ) from error
