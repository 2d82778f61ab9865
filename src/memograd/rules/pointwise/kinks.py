"""Elementwise functions with kinks or jumps: absolute value, maxima, clamps, rounding, selection.

The value at a kink is PyTorch's: |x|' = 0 at 0; equal operands of ``maximum`` share the adjoint, half each, those of
``fmax`` give it to the first; a clamp passes the adjoint on its boundary.
"""

import torch

from memograd.rules.calculus import is_tensor
from memograd.rules.registry import refuse, rule, zero

aten = torch.ops.aten

zero(
    aten.floor.default,
    aten.ceil.default,
    aten.round.default,
    aten.round.decimals,
    aten.trunc.default,
    aten.sign.default,
)
refuse(aten.heaviside.default, why="autograd has no derivative of heaviside either; detach its arguments")


@rule(aten.frac.default, formula="x̄ = ȳ")
def frac(adjoint, y, x):
    return adjoint


@rule(aten.abs.default, formula="x̄ = ȳ · sgn x")
def absolute(adjoint, y, x):
    return adjoint * x.sgn()


@rule(aten.sgn.default, formula="x̄ = 0 for real x; (ȳ - Re(conj ȳ · y) y) / |x| for complex x, 0 at x = 0")
def sgn(adjoint, y, x):
    if not x.is_complex():
        return torch.zeros_like(adjoint)
    at_zero = x == 0
    x = x.masked_fill(at_zero, 1)
    # what is tangential to the unit circle at y, over |x|
    return (adjoint / x.abs() - (adjoint / x).real * y).masked_fill(at_zero, 0)


@rule(aten.copysign.Tensor, aten.copysign.Scalar, formula="x̄ = ȳ · y / x, 0 at x = 0; z̄ = 0")
def copysign(adjoint, y, x, z):
    ratio = (y / x).masked_fill(x == 0, 0)
    return adjoint * ratio, torch.zeros_like(z) if is_tensor(z) else None


@rule(aten.maximum.default, formula="x̄ = ȳ · ([x > z] + ½ [x = z]), z̄ = ȳ · ([z > x] + ½ [x = z])")
def maximum(adjoint, y, x, z):
    shared = torch.where(x == z, adjoint / 2, adjoint)
    return shared.masked_fill(x < z, 0), shared.masked_fill(x > z, 0)


@rule(aten.minimum.default, formula="x̄ = ȳ · ([x < z] + ½ [x = z]), z̄ = ȳ · ([z < x] + ½ [x = z])")
def minimum(adjoint, y, x, z):
    shared = torch.where(x == z, adjoint / 2, adjoint)
    return shared.masked_fill(x > z, 0), shared.masked_fill(x < z, 0)


@rule(aten.fmax.default, formula="x̄ = ȳ · [x ≥ z or z is nan], z̄ = the rest")
def fmax(adjoint, y, x, z):
    first = (x >= z) | z.isnan()
    return adjoint.masked_fill(~first, 0), adjoint.masked_fill(first, 0)


@rule(aten.fmin.default, formula="x̄ = ȳ · [x ≤ z or z is nan], z̄ = the rest")
def fmin(adjoint, y, x, z):
    first = (x <= z) | z.isnan()
    return adjoint.masked_fill(~first, 0), adjoint.masked_fill(first, 0)


@rule(
    aten.clamp.default,
    aten.clamp.Tensor,
    formula="x̄ = ȳ · [lo ≤ x ≤ hi], lo̅ = ȳ · [x < lo < hi], hī = ȳ · [x > hi or hi < lo]",
)
def clamp(adjoint, y, x, low=None, high=None):
    inside = _both(None if low is None else x >= low, None if high is None else x <= high)
    to_low = to_high = None
    if is_tensor(low):
        to_low = _only(adjoint, _both(x < low, None if high is None else low < high))
    if is_tensor(high):
        to_high = _only(adjoint, x > high if low is None else (x > high) | (high < low))
    return adjoint if inside is None else _only(adjoint, inside), to_low, to_high


@rule(aten.clamp_min.default, aten.clamp_min.Tensor, formula="x̄ = ȳ · [x ≥ lo], lo̅ = ȳ · [x < lo]")
def clamp_min(adjoint, y, x, low):
    return _only(adjoint, x >= low), _only(adjoint, x < low) if is_tensor(low) else None


@rule(aten.clamp_max.default, aten.clamp_max.Tensor, formula="x̄ = ȳ · [x ≤ hi], hī = ȳ · [x > hi]")
def clamp_max(adjoint, y, x, high):
    return _only(adjoint, x <= high), _only(adjoint, x > high) if is_tensor(high) else None


def _both(left, right):
    return right if left is None else left if right is None else left & right


def _only(adjoint, where):
    """The adjoint where the condition holds, else 0 (also for an infinite adjoint)."""
    return adjoint.masked_fill(~where, 0)


@rule(aten.nan_to_num.default, formula="x̄ = ȳ · [x finite]")
def nan_to_num(adjoint, y, x, nan=None, posinf=None, neginf=None):
    return adjoint * x.isfinite()


@rule(aten.nextafter.default, formula="x̄ = ȳ · [x ≠ z], z̄ = 0")
def nextafter(adjoint, y, x, z):
    return adjoint.masked_fill(x == z, 0), torch.zeros_like(z)


@rule(aten.where.self, formula="x̄ = ȳ where c, z̄ = ȳ elsewhere")
def where(adjoint, y, c, x, z):
    return None, adjoint.masked_fill(~c.bool(), 0), adjoint.masked_fill(c.bool(), 0)
