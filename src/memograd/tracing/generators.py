"""Random numbers that a program draws from a ``torch.Generator`` of its own.

A graph holds no objects, so it cannot draw from one. The numbers of one run are drawn while the program is captured on
values, and are constants of its graph, which serves one call.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd._torch import without_modes
from memograd.errors import CaptureError, DataDependentError
from memograd.tracing.provenance import caller

aten = torch.ops.aten
_FILLS = frozenset(  # what they draw does not depend on what was there
    {
        *(aten.uniform_, aten.normal_, aten.random_, aten.exponential_, aten.cauchy_, aten.geometric_),
        *(aten.log_normal_, aten.bernoulli_),
    }
)
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


def drawn(func: Any, args: Any, kwargs: Any, concrete: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the operator draws, and the tensor that it is to be written into.

    Raises:
        DataDependentError: the capture is not on values.
        CaptureError: the operator does something besides drawing.
    """
    source, line = caller()
    what = f"{func} at {source} ({line.strip()}) draws from a torch.Generator"
    packet = getattr(func, "overloadpacket", None)
    if packet not in _FILLS and packet not in _DRAWS:
        advice = "draw outside and pass the numbers in, or draw from the global generator"
        raise CaptureError(f"{what} and does something else besides; {advice}")
    if not concrete:
        raise DataDependentError(f"{what}, and a graph holds no objects: it can only be captured for one call")
    with without_modes(), torch.no_grad():
        if packet in _FILLS:
            return func(torch.empty_like(args[0]), *args[1:], **kwargs), args[0]
        out = kwargs.get("out")
        return func(*args, **(kwargs if out is None else {**kwargs, "out": torch.empty_like(out)})), out
