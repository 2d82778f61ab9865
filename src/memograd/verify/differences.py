"""Derivatives by differences: witnesses that share nothing with the derivative table.

*Central*: ``(f(x + εv) - f(x - εv)) / 2ε``, error O(ε²) and about 1e-10 of rounding in float64 (Nocedal & Wright,
section 8.1).

*Complex step*: ``Im f(x + ihv) / h`` with h = 1e-30 has no subtraction and so no rounding beyond that of f itself
(Squire & Trapp 1998). It is right only where f is analytic and real on the reals. That cannot be seen from values
(``abs`` accepts complex numbers too), so f is captured on complex arguments, and the step is used when every operator
in the graph is analytic; compositions of analytic functions are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd.pipeline import capture_for

Tensor = torch.Tensor
Flat = Callable[..., tuple[Tensor, ...]]

# Operators whose complex version is the analytic continuation of the real one (away from branch cuts and poles).
_NAMES = """
    add sub rsub mul div neg reciprocal square pow exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos
    atan sinh cosh tanh asinh acosh atanh sigmoid addcmul addcdiv sum mean cumsum prod cumprod lerp
    mm bmm mv dot addmm addmv addbmm baddbmm addr convolution _linalg_det linalg_inv_ex _linalg_solve_ex
    linalg_solve_triangular linalg_matrix_exp
    view _unsafe_view reshape expand permute t transpose select slice split split_with_sizes unbind cat stack squeeze
    unsqueeze diagonal diag_embed clone alias contiguous flip roll repeat unfold constant_pad_nd index index_select
    gather scatter scatter_add slice_scatter select_scatter diagonal_scatter triu tril trace
    zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange eye scalar_tensor getitem
"""
ANALYTIC = frozenset(_NAMES.split())

_STEP = 1e-30


def central(f: Flat, points: Sequence[Tensor], ways: Sequence[Tensor], eps: float) -> tuple[Tensor, ...]:
    """Directional derivative of each result of ``f`` along ``ways``, by central differences."""
    ahead = f(*[p + eps * w for p, w in zip(points, ways, strict=True)])
    behind = f(*[p - eps * w for p, w in zip(points, ways, strict=True)])
    return tuple((a - b) / (2 * eps) for a, b in zip(ahead, behind, strict=True))


def complex_step(f: Flat, points: Sequence[Tensor], ways: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same by a complex step. Only where ``is_analytic``."""
    moved = [torch.complex(p, _STEP * w) for p, w in zip(points, ways, strict=True)]
    return tuple(y.imag / _STEP for y in f(*moved))


def is_analytic(f: Flat, points: Sequence[Tensor]) -> bool:
    """True when ``f`` takes complex arguments and is made of analytic operators alone.

    A program that treats complex numbers by themselves is one that holds other operators, or none of the complex ones
    (it casts); both are found. Where real arguments are complex already there is nothing to continue.
    """
    if any(p.is_complex() for p in points):
        return False
    try:
        real = capture_for(f, tuple(points), {}, concrete=True)
        graph = capture_for(f, tuple(torch.complex(p, torch.zeros_like(p)) for p in points), {}, concrete=True)
    except Exception:  # PyTorch's own: an operator knows no complex numbers
        return False
    names = [_name(n.target) for n in graph.nodes]
    same = names == [_name(n.target) for n in real.nodes]  # no other branch is taken for complex arguments
    return same and set(names) <= ANALYTIC and all(_value(n).is_complex() for n in graph.results)


def _name(target: Any) -> str:
    return getattr(target, "overloadpacket", target).__name__


def _value(node: Any) -> Tensor:
    return node.meta["val"]
