"""Operators that change how a tensor looks at its memory: ``t_``, ``transpose_``, ``unsqueeze_``, ``squeeze_``,
``as_strided_``.

They write nothing. From then on the tensor is one more view of the memory, and its other views stay what they are::

    row = y[0]
    y.t_()        # row is a column of y now
    y.mul_(2)     # and doubled

Autograd makes a view again when what it looks at was written to or turned. Of ordinary tensors it knows where the view
lies in memory; of tensors without data it repeats the operators that led there, and on a base that has been turned
since these lead somewhere else. So such a tensor is not turned where others look at its memory: from then on what the
program calls on it is called on a view of it (``Tape.turned``), as with stand-ins.

An argument or a parameter stays the tensor that the caller has, of the shape it has: what it shows in the end is
written to it. That is the same numbers, but not the same memory for those who look at it in another way.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import fx

from memograd._torch import fake_like, is_fake, schema_of
from memograd.errors import CaptureError
from memograd.graph.views import owner
from memograd.tracing.mutation import Alias, Detached, is_view
from memograd.tracing.provenance import caller
from memograd.tracing.tape import Tape

_T, _ATEN = torch.Tensor, torch.ops.aten
_NAMES = ("t", "transpose", "swapaxes", "swapdims", "unsqueeze", "squeeze", "as_strided")
VIEWS: dict[Any, Any] = {getattr(_T, f"{name}_"): getattr(_T, name) for name in _NAMES}  # and what turns in place
VIEWS |= {torch.as_strided_: torch.as_strided}
for _packet, _view in [(getattr(_ATEN, f"{name}_"), getattr(_ATEN, name)) for name in _NAMES]:
    VIEWS |= dict.fromkeys([_packet, *(getattr(_packet, o) for o in _packet.overloads())], _view)


def turned_apart(tape: Tape, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Let ``args[0]`` be a view of itself from now on; false where it can be turned itself, or PyTorch will complain.

    Raises:
        CaptureError: no such view is what autograd makes of it.
    """
    tensor, *rest = args or (None,)
    if not isinstance(tensor, torch.Tensor) or not tape.stops or tape.concrete or not torch.is_grad_enabled():
        return False
    if not is_fake(tensor) or not tape.is_looked_at(tensor):
        return False
    base = tensor if tensor._base is None else tensor._base
    if base.is_leaf and base.requires_grad:
        return False
    view = VIEWS[func]
    if tape.applied:
        _refuse(view, ", in the forward of an autograd.Function with grad mode on")
    if base is tensor and view.__name__ == "as_strided":
        _refuse(view, ": autograd takes their adjoints through the elements that this leaves, and drops the others")
    now = view(tensor, *rest, **kwargs)
    tape.turned[id(tensor)] = (tensor, now)
    if not now.is_inference():
        torch.autograd.graph.increment_version(now)  # what autograd has saved of it may not be used any more
    return True


def _refuse(view: Any, why: str) -> NoReturn:
    source, line = caller()
    raise CaptureError(
        f"{source} ({line.strip()}) calls {view.__name__}_ on a tensor while there are views of its memory{why}; use "
        f"{view.__name__}, which returns a view"
    )


def made_again(tape: Tape, func: Any, args: Any, kwargs: Any) -> Any:
    """Autograd makes a view again of a tensor that was turned apart, step by step; nobody sees the values of these.

    Raises:
        CaptureError: it is something else that meets such a tensor as it was.
    """
    if is_view(func):
        steps = func(*args, **kwargs)
        for step in steps if isinstance(steps, list | tuple) else [steps]:
            tape.unseen[id(step)] = step
        return steps
    source, line = caller()
    raise CaptureError(
        f"{func} at {source} ({line.strip()}) is given, in a way that cannot be followed, a tensor that was turned in "
        "place (t_, unsqueeze_); use t or unsqueeze, which return a view"
    )


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
