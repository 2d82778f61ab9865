"""Checks of gradients against witnesses that do not use the derivative table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import MemogradError
from memograd.pipeline import capture_for
from memograd.transforms import jvp, vjp

Tensor = torch.Tensor


class GradientMismatchError(MemogradError, AssertionError):
    """A gradient disagrees with its witness."""


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check the derivatives of ``f`` at ``args``.

    For each order: the directional derivative ``J v`` against central finite differences
    ``(f(x + εv) - f(x - εv)) / 2ε`` (error O(ε²), Nocedal & Wright, section 8.1), and the adjoint identity
    ``<u, J v> = <Jᵀ u, v>``. Order 2 checks the gradient of ``<u, f>`` in the same way.

    Args:
        args: float64 or complex128 tensors are perturbed; everything else is passed as it is.
        eps, rtol, atol: step and tolerances of the finite differences; the identity is held to 1e-9.

    Raises:
        GradientMismatchError: names the operators of ``f``, the argument, the index with the largest error and both
            numbers.
        MemogradError: an argument of a lower precision, for which finite differences mean nothing.
    """
    args = tuple(args)
    leaves = pytree.tree_leaves(args)
    for leaf in leaves:
        if _smooth(leaf) and leaf.dtype not in (torch.float64, torch.complex128):
            raise MemogradError(f"finite differences need float64 or complex128, got {leaf.dtype}; use .double()")
    generator = torch.Generator().manual_seed(seed)
    flat_f, points = _flatten(f, args)
    if not points:
        raise MemogradError("no floating-point argument to check")
    for degree in range(1, order + 1):
        _check(flat_f, points, degree, eps, rtol, atol, generator)
        flat_f = _gradient_of(flat_f, points, generator)


def _check(
    f: Callable[..., tuple[Tensor, ...]],
    points: list[Tensor],
    degree: int,
    eps: float,
    rtol: float,
    atol: float,
    generator: torch.Generator,
) -> None:
    _, pull = vjp(f, *points)
    for k, x in enumerate(points):
        ways = [_random(p, generator) if i == k else torch.zeros_like(p) for i, p in enumerate(points)]
        outputs, pushed = jvp(f, tuple(points), tuple(ways))
        ahead = f(*[p + eps * w for p, w in zip(points, ways, strict=True)])
        behind = f(*[p - eps * w for p, w in zip(points, ways, strict=True)])
        for j, (slope, a, b) in enumerate(zip(pushed, ahead, behind, strict=True)):
            _compare(f, points, slope, (a - b) / (2 * eps), rtol, atol, f"order {degree}, argument {k}, result {j}")
        seeds = tuple(_random(o, generator) for o in outputs)
        left: Any = sum(_inner(u, t) for u, t in zip(seeds, pushed, strict=True))
        right = _inner(pull(seeds)[k], ways[k])
        if not torch.allclose(left, right, rtol=1e-9, atol=1e-9, equal_nan=True):
            raise GradientMismatchError(
                f"order {degree}, argument {k} {tuple(x.shape)} of {_operators(f, points)}: "
                f"<u, Jv> = {left.item():.12g} but <Jᵀu, v> = {right.item():.12g}"
            )


def _compare(
    f: Callable[..., Any], points: list[Tensor], ours: Tensor, witness: Tensor, rtol: float, atol: float, what: str
) -> None:
    if torch.allclose(ours, witness, rtol=rtol, atol=atol, equal_nan=True):
        return
    error = (ours - witness).abs().nan_to_num(nan=float("inf"))
    worst = int(error.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ours.shape)) if ours.dim() else ()
    raise GradientMismatchError(
        f"{what} of {_operators(f, points)}: at index {index} the derivative is {ours.flatten()[worst].item():.10g}, "
        f"finite differences give {witness.flatten()[worst].item():.10g}"
    )


def _operators(f: Callable[..., Any], points: list[Tensor]) -> str:
    names = dict.fromkeys(str(n.target) for n in capture_for(f, tuple(points), {}, concrete=True).nodes)
    return ", ".join(n for n in names if "getitem" not in n)


def _flatten(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """``f`` as a function of its smooth tensors only, returning its smooth results only."""
    leaves, spec = pytree.tree_flatten(args)
    places = [i for i, leaf in enumerate(leaves) if _smooth(leaf)]

    def flat(*points: Tensor) -> tuple[Tensor, ...]:
        filled = list(leaves)
        for place, point in zip(places, points, strict=True):
            filled[place] = point
        return tuple(o for o in pytree.tree_leaves(f(*pytree.tree_unflatten(filled, spec))) if _smooth(o))

    return flat, [leaves[i].detach() for i in places]


def _gradient_of(
    f: Callable[..., tuple[Tensor, ...]], points: list[Tensor], generator: torch.Generator
) -> Callable[..., tuple[Tensor, ...]]:
    seeds = tuple(_random(o, generator) for o in f(*points))

    def gradient(*at: Tensor) -> tuple[Tensor, ...]:
        return vjp(f, *at)[1](seeds)

    return gradient


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Real inner product, which is the one the conjugate convention transposes."""
    return (a.conj() * b).real.sum() if a.is_complex() else (a * b).sum()


def _smooth(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
