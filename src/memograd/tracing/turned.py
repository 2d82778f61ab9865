"""Operators that change how a tensor looks at its memory: ``t_``, ``transpose_``, ``unsqueeze_``, ``squeeze_``,
``as_strided_``.

They write nothing. From then on the tensor is one more view of the memory, and its other views stay what they are::

    row = y[0]
    y.t_()        # row is a column of y now
    y.mul_(2)     # and doubled

An argument or a parameter stays the tensor that the caller has, of the shape it has: what it shows in the end is
written to it. That is the same numbers, but not the same memory for those who look at it in another way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd._torch import fake_like, schema_of
from memograd.errors import CaptureError
from memograd.graph.views import owner
from memograd.tracing.mutation import Alias, Detached
from memograd.tracing.provenance import caller
from memograd.tracing.tape import Tape


def is_turn(func: Any) -> bool:
    """Whether ``func`` changes the shape or the strides of the tensor it is called on, and no value. (``detach_`` does
    neither.)"""
    return torch.Tag.inplace_view in func.tags and func is not torch.ops.aten.detach_.default


def keep_geometry(aliases: list[Alias], tensor: torch.Tensor) -> None:
    """``tensor`` is about to change its shape: whatever has its geometry from it has it from another tensor."""
    before = fake_like(tensor)
    for alias in aliases:
        alias.chain = tuple((step, before if like is tensor else like) for step, like in alias.chain)
        storage = alias.storage
        while isinstance(storage, Detached):
            storage.tensor = before if storage.tensor is tensor else storage.tensor
            source = storage.source
            source.chain = tuple((step, before if like is tensor else like) for step, like in source.chain)
            storage = source.storage
        storage.tensor = before if storage.tensor is tensor else storage.tensor


def refuse_others(alias: Alias, aliases: list[Alias], func: Any) -> None:
    """Nothing but the tensor of ``alias`` may look at its memory.

    Raises:
        CaptureError: something does.
    """
    memory = alias.storage.memory
    if any(a.storage.memory is memory and (a.chain or a.storage is not memory) for a in aliases):
        source, line = caller()
        view = schema_of(func).name.removeprefix("aten::").removesuffix("_")
        raise CaptureError(
            f"{func} at {source} ({line.strip()}) turns a tensor that the program was given, or turns one under "
            f"no_grad, while it has views of it; use {view}, which returns a view"
        )


def left_in(tape: Tape, given: fx.Node, value: fx.Node) -> fx.Node:
    """What is written to ``given`` in the end: ``value``, but not the same memory seen in another way.

    Raises:
        CaptureError: it has another shape.
    """
    before, after = given.meta["val"], value.meta["val"]
    if before.shape != after.shape:
        raise CaptureError(
            f"the program leaves {given.name}, which it was given, with shape {tuple(after.shape)} instead of "
            f"{tuple(before.shape)} (t_, unsqueeze_, squeeze_); use t, unsqueeze or squeeze, which return a view"
        )
    if value is not given and owner(value).op == "placeholder":
        return tape.emit_node(torch.ops.aten.clone.default, (value,), after)
    return value
