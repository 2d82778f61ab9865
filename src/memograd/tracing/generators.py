"""Random numbers that a program draws from a ``torch.Generator`` of its own.

A graph holds no objects, so it cannot draw from one. The numbers of one run are drawn while the program is captured on
values, and are constants of its graph, which serves one call; or many, where the same is drawn in each (behind a seed,
from a generator that the program makes). The probabilities and means by which it is drawn are looked at, then.
"""

from __future__ import annotations

from collections.abc import Callable
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
    func: Any, args: Any, kwargs: Any, look: Callable[[torch.Tensor, str], None] | None, fixed: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the operator draws, and the tensor that it is to be written into.

    Args:
        look: is told whose values decide what is drawn; None where the capture is not on values.
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
    of_shape_alone = packet in _FILLS or packet in _LIKE
    decide = pytree.tree_leaves((args[of_shape_alone:], {**kwargs, "out": None}))
    if of_shape_alone:
        args = (*map_tensors(_memory_like, args[:1]), *args[1:])
    if look is None and not (fixed and not any(map(is_fake, (*args, *decide)))):
        raise DataDependentError(f"{what}, and a graph holds no objects: it can only be captured for one call")
    for tensor in decide:
        if look is not None and isinstance(tensor, torch.Tensor):
            look(tensor, "value")
    with without_modes(), torch.no_grad():
        if packet in _FILLS:
            return func(*args, **kwargs), target
        return func(*args, **(kwargs if out is None else {**kwargs, "out": _memory_like(out)})), out


def _memory_like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory of the same geometry, in which there is something."""
    with without_modes():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
