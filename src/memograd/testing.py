"""Checks of gradients against witnesses that do not use the derivative table.

``check_grads`` compares derivatives of a function with finite differences. ``check_transforms``, or MEMOGRAD_CHECK=1 in
the environment, lets every transform compare its programs with ``torch.autograd`` as it makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from memograd._torch import pytree
from memograd.errors import GradientMismatchError, MemogradError, OptionError
from memograd.pipeline import capture_for
from memograd.transforms.check import check_transforms
from memograd.transforms.jvp import jvp
from memograd.transforms.vjp import vjp
from memograd.verify.blame import first_wrong_operator, inner, random
from memograd.verify.differences import Flat, central, complex_step, is_analytic
from memograd.witness.blame import smooth

__all__ = ["check_grads", "check_transforms"]

Tensor = torch.Tensor


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

    For each order and argument: the directional derivative ``J v`` against central finite differences, and, where
    ``f`` is analytic, against the complex step, which is exact (``verify/differences.py``); and the adjoint identity
    ``<u, J v> = <Jᵀ u, v>``. Order 2 checks the gradient of ``<u, f>`` in the same way.

    Args:
        args: float64 or complex128 tensors are perturbed; everything else is passed as it is.
        eps, rtol, atol: step and tolerances of the finite differences; the identity and the complex step are held
            to 1e-9.

    Raises:
        GradientMismatchError: names the first operator whose own rule is wrong, the argument, the index with the
            largest error and both numbers.
        MemogradError: an argument of a lower precision, for which finite differences mean nothing.
    """
    if not callable(f):
        raise MemogradError(f"expected a function or module, got {type(f).__name__}")
    if isinstance(args, torch.Tensor) or not isinstance(args, Iterable):
        raise MemogradError(f"args must be a tuple of arguments, got {type(args).__name__}: write (x,)")
    numbers = {"eps": eps, "rtol": rtol, "atol": atol}
    for name, value in numbers.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (value > 0 or (name != "eps" and value == 0))
        ):
            raise OptionError(f"{name} must be a positive number, got {value!r}")
    if type(order) is not int or order < 1:
        raise OptionError(f"order must be a whole number, at least 1, got {order!r}")
    with check_transforms(False):  # here differences are the witness, also of what PyTorch gets wrong
        _check_grads(f, tuple(args), order, eps, rtol, atol, seed)


def _check_grads(
    f: Callable[..., Any], args: tuple[Any, ...], order: int, eps: float, rtol: float, atol: float, seed: int
) -> None:
    for leaf in pytree.tree_leaves(args):
        if smooth(leaf) and leaf.dtype not in (torch.float64, torch.complex128):
            raise MemogradError(f"finite differences need float64 or complex128, got {leaf.dtype}; use .double()")
    generator = torch.Generator().manual_seed(seed)
    flat_f, points = _flatten(f, args)
    if not points:
        raise MemogradError("no floating-point argument to check")
    for degree in range(1, order + 1):
        _Check(flat_f, points, degree, eps, rtol, atol, generator).run()
        flat_f = _gradient_of(flat_f, points, generator)


@dataclass(frozen=True)
class _Check:
    """One order: ``f`` is the function itself, or its gradient."""

    f: Flat
    points: list[Tensor]
    degree: int
    eps: float
    rtol: float
    atol: float
    generator: torch.Generator

    def run(self) -> None:
        _, pull = vjp(self.f, *self.points)
        analytic = is_analytic(self.f, self.points)
        for k in range(len(self.points)):
            ways = [random(p, self.generator) if i == k else torch.zeros_like(p) for i, p in enumerate(self.points)]
            outputs, pushed = jvp(self.f, tuple(self.points), tuple(ways))
            seeds = tuple(random(o, self.generator) for o in outputs)
            if not all(map(self.agree, pushed, central(self.f, self.points, ways, self.eps))):
                self.fail(k, seeds, "finite differences give")
            exact = complex_step(self.f, self.points, ways) if analytic else pushed
            if not all(map(_equal, pushed, exact)):
                self.fail(k, seeds, "the complex step gives")
            left: Any = sum(inner(u, t) for u, t in zip(seeds, pushed, strict=True))
            right = inner(pull(seeds)[k], ways[k])
            if not _equal(left, right):
                self.fail(
                    k, seeds, f"<u, Jv> = {left.item():.12g} but <Jᵀu, v> = {right.item():.12g}; differences give"
                )

    def agree(self, ours: Tensor, witness: Tensor) -> bool:
        return torch.allclose(ours, witness, rtol=self.rtol, atol=self.atol, equal_nan=True)

    def fail(self, k: int, seeds: tuple[Tensor, ...], says: str) -> NoReturn:
        """Find the operator and the element of argument ``k`` with the largest error, and raise."""
        culprit = first_wrong_operator(self.f, self.points, self.eps, self.agree)
        if culprit is None:
            names = dict.fromkeys(str(n.target) for n in capture_for(self.f, tuple(self.points), {}).nodes)
            culprit = f"none of its operators by itself ({', '.join(n for n in names if 'getitem' not in n)})"
        ours = vjp(self.f, *self.points)[1](seeds)[k]
        witness = self.elementwise(k, seeds)
        error = (ours.flatten()[: len(witness)] - witness).abs().nan_to_num(nan=float("inf"))
        worst = int(error.argmax())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ours.shape)) if ours.dim() else ()
        raise GradientMismatchError(
            f"order {self.degree}, argument {k} of shape {tuple(ours.shape)}: the first wrong operator is {culprit}; "
            f"at index {index} of the argument the derivative is {ours.flatten()[worst].item():.10g}, {says} "
            f"{witness[worst].item():.10g}"
        )

    def elementwise(self, k: int, seeds: tuple[Tensor, ...]) -> Tensor:
        """The gradient of ``<u, f>`` in argument ``k`` by differences, element by element (the first 1,000)."""
        x = self.points[k]
        slopes = []
        for i in range(min(x.numel(), 1000)):
            parts = [self.slope(k, i, unit, seeds) for unit in ((1, 1j) if x.is_complex() else (1,))]
            slopes.append(torch.complex(parts[0], parts[1]) if x.is_complex() else parts[0])
        return torch.stack(slopes)

    def slope(self, k: int, i: int, unit: Any, seeds: tuple[Tensor, ...]) -> Tensor:
        """The derivative of ``<u, f>`` along ``unit`` in element ``i`` of argument ``k``."""
        ways = [torch.zeros_like(p) for p in self.points]
        ways[k].view(-1)[i] = unit
        slopes = central(self.f, self.points, ways, self.eps)
        return torch.stack([inner(u, s) for u, s in zip(seeds, slopes, strict=True)]).sum()


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


def _flatten(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """``f`` as a function of its smooth tensors only, returning its smooth results only."""
    leaves, spec = pytree.tree_flatten(args)
    places = [i for i, leaf in enumerate(leaves) if smooth(leaf)]

    def flat(*points: Tensor) -> tuple[Tensor, ...]:
        filled = list(leaves)
        for place, point in zip(places, points, strict=True):
            filled[place] = point
        return tuple(o for o in pytree.tree_leaves(f(*pytree.tree_unflatten(filled, spec))) if smooth(o))

    return flat, [leaves[i].detach() for i in places]


def _gradient_of(
    f: Callable[..., tuple[Tensor, ...]], points: list[Tensor], generator: torch.Generator
) -> Callable[..., tuple[Tensor, ...]]:
    seeds = tuple(random(o, generator) for o in f(*points))

    def gradient(*at: Tensor) -> tuple[Tensor, ...]:
        return vjp(f, *at)[1](seeds)

    return gradient
