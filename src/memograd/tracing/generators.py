"""Random numbers that a program draws from a ``torch.Generator`` of its own.

A graph holds no objects, so it cannot draw from one. The numbers of one run are drawn while the program is captured on
values, and are constants of its graph, which serves one call.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import is_fake, pytree, without_modes
from memograd.errors import CaptureError, DataDependentError
from memograd.tracing.provenance import caller
from memograd.tracing.writer import map_tensors

aten = torch.ops.aten
_FILLS = frozenset(  # what they draw does not depend on what was there
    {
        *(aten.uniform_, aten.normal_, aten.random_, aten.exponential_, aten.cauchy_, aten.geometric_),
        *(aten.log_normal_, aten.bernoulli_),
    }
)
_LIKE = frozenset({aten.rand_like, aten.randn_like, aten.randint_like})
_DRAWS = frozenset(
    {
        *(aten.rand, aten.randn, aten.randint, aten.randperm, aten.rand_like, aten.randn_like, aten.randint_like),
        *(aten.bernoulli, aten.multinomial, aten.normal, aten.poisson, aten.binomial, aten.uniform, aten.exponential),
        *(aten.random, aten.geometric, aten.cauchy, aten.log_normal),
    }
)


def given(args: Any, kwargs: Any) -> torch.Generator | None:
    """The generator that an operator is told to draw from."""
    return args[-1] if args and type(args[-1]) is torch.Generator else kwargs.get("generator")


def without(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The same arguments, but for the generator."""
    if "generator" in kwargs:
        return args, {**kwargs, "generator": None}
    return (*args[:-1], None), kwargs


def drawn(
    func: Any, args: Any, kwargs: Any, concrete: bool, fixed: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the operator draws, and the tensor that it is to be written into.

    Args:
        fixed: the same is drawn in every run.

    Raises:
        DataDependentError: the capture is not on values, and it may be something else next time, or depends on some.
        CaptureError: the operator does something besides drawing.
    """
    source, line = caller()
    what = f"{func} at {source} ({line.strip()}) draws from a torch.Generator, or behind a seed,"
    packet, target, out = getattr(func, "overloadpacket", None), args[0] if args else None, kwargs.get("out")
    if packet not in _FILLS and packet not in _DRAWS:
        advice = "draw outside and pass the numbers in, or draw from the global generator"
        raise CaptureError(f"{what} and does something else besides; {advice}")
    given = map_tensors(_memory_like, args[:1]) if packet in (*_FILLS, *_LIKE) else args[:1]
    args = (*given, *args[1:])
    if not concrete and not (fixed and not any(map(is_fake, pytree.tree_leaves(args)))):
        raise DataDependentError(f"{what}, and a graph holds no objects: it can only be captured for one call")
    with without_modes(), torch.no_grad():
        if packet in _FILLS:
            return func(*args, **kwargs), target
        return func(*args, **(kwargs if out is None else {**kwargs, "out": _memory_like(out)})), out


def _memory_like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory of the same geometry, in which there is something."""
    with without_modes():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
