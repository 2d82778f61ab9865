"""The few operators of our own that a graph may hold besides ATen's.

Most are marks that steer differentiation. They are identities on values; only the derivative table
(``rules/marks.py``) tells them apart. They are real dispatcher operators, so that a graph which is run inside another
capture leaves its marks there too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.library import Library

from memograd.looks import look

_LIBRARY = Library("memograd", "DEF")  # the namespace is ours; one process loads this module once

# The value passes, the adjoint does not: detach, no_grad, .data.
_LIBRARY.define("stop(Tensor(a) x) -> Tensor(a)")
# The value is `new`, the adjoint goes to `old`: a write that autograd does not see (`p.data.clamp_()`).
_LIBRARY.define("overwrite(Tensor old, Tensor(a) new) -> Tensor(a)")
# The value passes, an adjoint that arrives is an error: output of an autograd.Function without a rule.
_LIBRARY.define("opaque(Tensor(a) x, str function, str where) -> Tensor(a)")
# Zeros and ones drawn as ``x.bernoulli_(p)`` draws them: aten's functional twin forgets the strides of x, and the same
# seed would then give another mask than in the program.
_LIBRARY.define(
    "bernoulli(Tensor like, float p, *, Generator? generator=None) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded,),
)


@torch.library.impl(_LIBRARY, "bernoulli", "CompositeExplicitAutograd")
def _bernoulli(like: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    return torch.empty_like(like).bernoulli_(p, generator=generator)


@torch.library.impl(_LIBRARY, "stop", "CompositeExplicitAutograd")
def _stop(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


@torch.library.impl(_LIBRARY, "overwrite", "CompositeExplicitAutograd")
def _overwrite(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.alias.default(new)


@torch.library.impl(_LIBRARY, "opaque", "CompositeExplicitAutograd")
def _opaque(x: torch.Tensor, function: str, where: str) -> torch.Tensor:
    return torch.ops.aten.alias.default(x)


stop = torch.ops.memograd.stop.default
overwrite = torch.ops.memograd.overwrite.default
opaque = torch.ops.memograd.opaque.default
bernoulli = torch.ops.memograd.bernoulli.default

MARKS = (stop, overwrite, opaque)


def is_random(node: Any) -> bool:
    """True when the operator of an fx node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def has_effect(node: Any) -> bool:
    """True when an fx node counts although nobody reads it: it draws random numbers, or looks at a value."""
    return is_random(node) or node.target is look
