"""The few operators of our own that a graph may hold besides ATen's.

Most are marks that steer differentiation. They are identities on values; only the derivative table
(``rules/marks.py``) tells them apart. They are real dispatcher operators, made of the PyTorch calls for which they
stand: a graph that is run inside another capture leaves its marks there too, and PyTorch's own autograd, vmap and
forward mode, when they go through a graph, stop where the program stopped them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library

from memograd.finite import largest
from memograd.looks import look

_LIBRARY = Library("memograd", "DEF")  # the namespace is ours; one process loads this module once

# The value passes, neither adjoint nor tangent does: detach, .data, inference mode.
_LIBRARY.define("stop(Tensor(a) x) -> Tensor(a)")
# The value and its tangent pass, the adjoint does not: no_grad, which is about reverse mode alone.
_LIBRARY.define("no_grad(Tensor(a) x) -> Tensor(a)")
# The same while a jvp is made as the vjp of a vjp: its adjoints are to pass, and are no_grad's in their turn.
_LIBRARY.define("only_forward(Tensor(a) x) -> Tensor(a)")
# The value is `new`, the adjoint goes to `old`: a write that autograd does not see (`p.data.clamp_()`).
_LIBRARY.define("overwrite(Tensor old, Tensor(a) new) -> Tensor(a)")
# The value and its tangent are those of `new`, the adjoint goes to `old`: a write under no_grad. And the same while a
# jvp is made.
_LIBRARY.define("written(Tensor old, Tensor(a) new) -> Tensor(a)")
_LIBRARY.define("written_forward(Tensor old, Tensor(a) new) -> Tensor(a)")
# The value passes, an adjoint that arrives is an error: what the backward of an autograd.Function returned, where
# autograd does not differentiate that either.
_LIBRARY.define("opaque(Tensor(a) x, str function, str why) -> Tensor(a)")
# Zeros and ones drawn as ``x.bernoulli_(p)`` draws them: aten's functional twin forgets the strides of x, and the same
# seed would then give another mask than in the program.
_LIBRARY.define(
    "bernoulli(Tensor like, float p, *, Generator? generator=None) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)
# The cotangents of those of the results that ``which`` names, from who went on from them. A plan waits here; what it
# returns by itself is memory of that size, for who measures it.
_LIBRARY.define("receive(Tensor[] results, int[] which) -> Tensor[]")


def _define(name: str, function: Callable[..., Any]) -> None:
    """``function`` is what the operator is made of: under autograd, and in a batch of vmap."""
    for key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
        _LIBRARY.impl(name, function, key)


def _stop(x: torch.Tensor) -> torch.Tensor:
    return x.detach()


def _no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.ops.aten.alias.default(x)


def _overwrite(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if not (torch.is_grad_enabled() and old.requires_grad):
        return new.detach()
    memory = old + torch.zeros_like(new)  # a batch where one of the two is
    memory.detach().copy_(new)
    return memory


def _written(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if not (torch.is_grad_enabled() and old.requires_grad):
        return _no_grad(new)
    memory = old + torch.zeros_like(new)
    with torch.no_grad():
        memory.copy_(new)
    return memory


_define("stop", _stop)
_define("no_grad", _no_grad)
_define("overwrite", _overwrite)
_define("written", _written)


@torch.library.impl(_LIBRARY, "only_forward", "CompositeExplicitAutograd")
def _only_forward(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


@torch.library.impl(_LIBRARY, "written_forward", "CompositeExplicitAutograd")
def _written_forward(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.alias.default(new)


@torch.library.impl(_LIBRARY, "opaque", "CompositeExplicitAutograd")
def _opaque(x: torch.Tensor, function: str, why: str) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


@torch.library.impl(_LIBRARY, "bernoulli", "CompositeExplicitAutograd")
def _bernoulli(like: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    return torch.empty_like(like).bernoulli_(p, generator=generator)


@torch.library.impl(_LIBRARY, "opaque", "FuncTorchBatchedDecomposition")
def _opaque_batch(x: torch.Tensor, function: str, why: str) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


@torch.library.impl(_LIBRARY, "bernoulli", "FuncTorchBatchedDecomposition")
def _bernoulli_batch(like: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    return torch.empty_like(like).bernoulli_(p, generator=generator)


@torch.library.impl(_LIBRARY, "receive", "CompositeExplicitAutograd")
def _receive(results: list[torch.Tensor], which: list[int]) -> list[torch.Tensor]:
    return [torch.zeros(results[k].shape, dtype=results[k].dtype, device=results[k].device) for k in which]


stop = torch.ops.memograd.stop.default
no_grad = torch.ops.memograd.no_grad.default
only_forward = torch.ops.memograd.only_forward.default
overwrite = torch.ops.memograd.overwrite.default
written = torch.ops.memograd.written.default
written_forward = torch.ops.memograd.written_forward.default
opaque = torch.ops.memograd.opaque.default
bernoulli = torch.ops.memograd.bernoulli.default
receive = torch.ops.memograd.receive.default

WRITES = (overwrite, written, written_forward)  # their value is the second operand
MARKS = (stop, no_grad, only_forward, *WRITES, opaque)


def behind_writes(node: Any) -> Any:
    """What autograd takes a value for that was written past it: the value before."""
    while node.target in WRITES:
        node = node.args[0]
    return node


def behind_stops(node: Any) -> Any:
    """The node whose value ``node`` of an fx graph is, where gradients do flow; what is no node as it is."""
    while getattr(node, "target", None) in (stop, no_grad, only_forward):
        node = node.args[0]
    return node


def is_random(node: Any) -> bool:
    """True when the operator of an fx node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


# They return nothing, and raise where a tensor is not as it should be (a singular matrix).
CHECKS = (
    torch.ops.aten._assert_async.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._linalg_check_errors.default,
)


def may_raise(node: Any) -> bool:
    """True when an fx node may end the run by what it sees: writes come after it."""
    return node.target in (look, largest) or node.target in CHECKS


def has_effect(node: Any) -> bool:
    """True when an fx node counts although nobody reads it: it draws random numbers, or looks at a value."""
    return is_random(node) or may_raise(node)
