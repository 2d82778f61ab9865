"""A transform in plain PyTorch: the same derivatives by ``torch.autograd``, for the witness.

While the witness runs a function, transforms inside it must not be ours, or they would vouch for themselves. What takes
the place of a program then has the same methods, and is one more stretch of PyTorch's tape. There is no forward mode:
u -> Jᵀu is linear in u, and its gradient is the tangent. Where ``no_grad`` stops a gradient and not a tangent that is
something else, and there is no witness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from memograd._torch import pytree
from memograd.witness.autograd import passed

Tensor = torch.Tensor
Saved = tuple[list[Tensor], list[Tensor]]  # the results that are differentiated, the points


class Plain:
    """What ``Program`` is, for one call.

    Args:
        chosen: which leaves of the positional arguments are differentiated.
        forward_mode: takes tangents.
        passes: tangents pass ``no_grad``.
    """

    batchable = False

    def __init__(
        self, f: Callable[..., Any], chosen: Sequence[int], has_aux: bool, forward_mode: bool, passes: bool
    ) -> None:
        self.f, self.chosen, self.has_aux = f, list(chosen), has_aux
        self.forward_mode, self.passes = forward_mode, passes
        self.names = [f"input_{k}" for k in chosen]
        self.main: list[str] = []

    def whole(self, args: Any, kwargs: Any, given: Mapping[str, Tensor] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """(what ``f`` returns, {name: gradient or tangent})."""
        out, saved = self.forward(args, kwargs)
        seeds = given if given is not None else {name: torch.ones_like(y) for name, y in self._named(saved[0])}
        return out, self.linear(saved, seeds)

    def forward(self, args: Any, kwargs: Any) -> tuple[Any, Saved]:
        """What ``f`` returns, and what ``linear`` goes on from."""
        leaves, spec = pytree.tree_flatten(args)
        with torch.enable_grad():
            points = [x if x.requires_grad else x.detach().requires_grad_() for x in (leaves[k] for k in self.chosen)]
            points = [passed(x) for x in points]
            arguments = [leaves[k] for k in self.chosen]
            variables = [passed(x) for x in points]
            for k, x in zip(self.chosen, variables, strict=True):
                leaves[k] = x
            versions = [x._version for x in variables]
            with _Stops() if self.passes else nullcontext() as stops:
                out = self.f(*pytree.tree_unflatten(leaves, spec), **kwargs)
            for argument, x, version in zip(arguments, variables, versions, strict=True):
                if x._version != version:  # the caller sees what f wrote to its arguments
                    argument.copy_(x if argument.requires_grad else x.detach())
        if stops is not None and stops.stopped:
            raise NotImplementedError("the witness has no forward mode, and no_grad stops what is reverse")
        main = list(pytree.tree_leaves(out[0] if self.has_aux else out))
        self.main = [f"output_{k}" for k in range(len(main))]
        return pytree.tree_map_only(Tensor, _as_outside, out), (main, points)

    def linear(self, saved: Saved, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name: gradient or tangent} for cotangents or tangents by name."""
        main, points = saved
        with torch.enable_grad():
            if self.forward_mode:
                derived = dict(zip(self.main, _pushed(main, points, [given[n] for n in self.names]), strict=True))
            else:
                derived = dict(zip(self.names, pulled(main, points, [given[n] for n in self.main]), strict=True))
        return {name: _as_outside(value) for name, value in derived.items() if value is not None}

    def _named(self, main: list[Tensor]) -> list[tuple[str, Tensor]]:
        return list(zip(self.main, main, strict=True))


class _Stops(TorchFunctionMode):
    """Sees whether ``no_grad`` stops a gradient."""

    stopped = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.stopped and not torch.is_grad_enabled():
            given = pytree.tree_leaves((args, kwargs))
            self.stopped = any(isinstance(x, Tensor) and x.requires_grad for x in given)
        return func(*args, **(kwargs or {}))


def _as_outside(value: Tensor) -> Tensor:
    """Without a history where the caller keeps none."""
    return value if torch.is_grad_enabled() else value.detach()


def pulled(results: Sequence[Tensor], points: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Jᵀu by autograd, which can be differentiated on."""
    pairs = [(y, u.to(y.dtype)) for y, u in zip(results, cotangents, strict=True) if y.requires_grad]
    if not pairs or not points:
        return [None] * len(points)
    taped, seeds = zip(*pairs, strict=True)
    return list(torch.autograd.grad(taped, list(points), seeds, create_graph=True, allow_unused=True))


def _pushed(results: Sequence[Tensor], points: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor | None]:
    """J t, the gradient of u -> <Jᵀu, t>."""
    ways = [torch.zeros_like(y).requires_grad_() for y in results]
    gradients = pulled(results, points, ways)
    pairs = [(g, t.to(g.dtype)) for g, t in zip(gradients, tangents, strict=True) if g is not None and g.requires_grad]
    if not pairs or not ways:
        return [None] * len(ways)
    taped, seeds = zip(*pairs, strict=True)
    return list(torch.autograd.grad(taped, ways, seeds, create_graph=True, allow_unused=True))
