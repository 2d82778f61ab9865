"""Elementwise arithmetic: sums, products, quotients, powers.

Complex numbers follow PyTorch: the gradient is the conjugate Wirtinger derivative, so an adjoint is multiplied by the
*conjugate* of a holomorphic function's derivative. A binary operator may receive a Python number as its second
operand; it gets no adjoint.
"""

import cmath
import math

import torch

from memograd.rules.calculus import conj, is_tensor, scaled
from memograd.rules.registry import refuse, rule

aten = torch.ops.aten


@rule(aten.add.Tensor, aten.add.Scalar, formula="x̄ = ȳ, z̄ = α ȳ")
def add(adjoint, y, x, z, alpha=1):
    return adjoint, scaled(adjoint, alpha) if is_tensor(z) else None


@rule(aten.sub.Tensor, aten.sub.Scalar, formula="x̄ = ȳ, z̄ = -α ȳ")
def sub(adjoint, y, x, z, alpha=1):
    return adjoint, scaled(-adjoint, alpha) if is_tensor(z) else None


@rule(aten.rsub.Tensor, aten.rsub.Scalar, formula="x̄ = -α ȳ, z̄ = ȳ")
def rsub(adjoint, y, x, z, alpha=1):
    return scaled(-adjoint, alpha), adjoint if is_tensor(z) else None


@rule(aten.mul.Tensor, aten.mul.Scalar, formula="x̄ = ȳ · conj z, z̄ = ȳ · conj x")
def mul(adjoint, y, x, z):
    return adjoint * conj(z), adjoint * conj(x) if is_tensor(z) else None


@rule(aten.div.Tensor, aten.div.Scalar, formula="x̄ = ȳ / conj z, z̄ = -ȳ · conj(x / z²)")
def div(adjoint, y, x, z):
    return adjoint / conj(z), -adjoint * conj((x / z) / z) if is_tensor(z) else None


@rule(aten.div.Tensor_mode, aten.div.Scalar_mode, formula="as x / z without a rounding mode; 0 with one")
def div_mode(adjoint, y, x, z, rounding_mode=None):
    if rounding_mode is None:
        return div(adjoint, y, x, z)
    return torch.zeros_like(adjoint), torch.zeros_like(adjoint) if is_tensor(z) else None


refuse(
    aten.floor_divide.default,
    aten.floor_divide.Scalar,
    why="autograd has no derivative of floor_divide (//) either; use torch.div(x, z, rounding_mode='floor'), whose "
    "gradient is zero, or detach its arguments",
)


@rule(aten.fmod.Tensor, aten.fmod.Scalar, formula="x̄ = ȳ, z̄ = -ȳ · trunc(x / z)")
def fmod(adjoint, y, x, z):
    return adjoint, -adjoint * torch.div(x, z, rounding_mode="trunc") if is_tensor(z) else None


@rule(aten.remainder.Tensor, aten.remainder.Scalar, formula="x̄ = ȳ, z̄ = -ȳ · floor(x / z)")
def remainder(adjoint, y, x, z):
    return adjoint, -adjoint * torch.div(x, z, rounding_mode="floor") if is_tensor(z) else None


@rule(aten.remainder.Scalar_Tensor, formula="z̄ = -ȳ · floor(x / z)")
def remainder_number(adjoint, y, x, z):
    return None, -adjoint * torch.div(x, z, rounding_mode="floor")


@rule(aten.neg.default, aten._neg_view.default, formula="x̄ = -ȳ")
def neg(adjoint, y, x):
    return -adjoint


@rule(aten.reciprocal.default, formula="x̄ = -ȳ · conj y²")
def reciprocal(adjoint, y, x):
    return -adjoint * conj(y * y)


@rule(aten.sqrt.default, formula="x̄ = ȳ / (2 conj y)")
def sqrt(adjoint, y, x):
    return adjoint / (2 * conj(y))


@rule(aten.rsqrt.default, formula="x̄ = -½ ȳ · conj y³")
def rsqrt(adjoint, y, x):
    return -0.5 * adjoint * conj(y.pow(3))


@rule(aten.pow.Tensor_Scalar, formula="x̄ = ȳ · conj(p x^(p-1)), 0 for p = 0")
def pow_number(adjoint, y, x, p):
    if p == 0:
        return torch.zeros_like(adjoint)
    if p == 1:
        return adjoint
    # one multiplication where the power is the value itself
    return adjoint * conj(p * x if p == 2 else p * x.pow(p - 1))


@rule(aten.pow.Tensor_Tensor, formula="x̄ = ȳ · conj(p x^(p-1)), p̄ = ȳ · conj(y log x); 0 where p = 0, or x = 0 ≤ p")
def pow_tensor(adjoint, y, x, p):
    base = adjoint * conj(p * x.pow(p - 1)).masked_fill(p == 0, 0)
    return base, adjoint * conj(y * _promoted(x, y).log()).masked_fill((x == 0) & _nonnegative(p), 0)


@rule(aten.pow.Scalar, formula="p̄ = ȳ · conj(y log x); 0 where x = 0 ≤ p")
def pow_base(adjoint, y, x, p):
    slope = conj(y * _log(x))
    return None, adjoint * (slope.masked_fill(_nonnegative(p), 0) if x == 0 else slope)


def _promoted(x, y):
    return x if x.dtype == y.dtype else x.to(y.dtype)


def _nonnegative(p):
    return (p.imag == 0) & (p.real >= 0) if p.is_complex() else p >= 0


def _log(number):
    """Logarithm of a Python number as C computes it: log 0 = -inf, and nan for a negative real number."""
    if isinstance(number, complex):
        return cmath.log(number) if number else complex(-math.inf)
    return math.log(number) if number > 0 else -math.inf if number == 0 else math.nan


@rule(aten.addcmul.default, formula="x̄ = ȳ, ā = ȳ · conj(c b), b̄ = ȳ · conj(c a)")
def addcmul(adjoint, y, x, a, b, value=1):
    return adjoint, adjoint * conj(b if value == 1 else b * value), adjoint * conj(a if value == 1 else a * value)


@rule(aten.addcdiv.default, formula="x̄ = ȳ, ā = ȳ · conj(c / b), b̄ = -ȳ · conj(c a / b²)")
def addcdiv(adjoint, y, x, a, b, value=1):
    return adjoint, adjoint * conj(value / b), -adjoint * conj(value * a / (b * b))


@rule(aten.lerp.Scalar, aten.lerp.Tensor, formula="x̄ = ȳ · conj(1 - w), z̄ = ȳ · conj w, w̄ = ȳ · conj(z - x)")
def lerp(adjoint, y, x, z, w):
    return adjoint * conj(1 - w), adjoint * conj(w), adjoint * conj(z - x) if is_tensor(w) else None


@rule(aten.hypot.default, formula="x̄ = ȳ · x / y, z̄ = ȳ · z / y")
def hypot(adjoint, y, x, z):
    return adjoint * x / y, adjoint * z / y


@rule(aten.atan2.default, formula="x̄ = ȳ · z / (x² + z²), z̄ = -ȳ · x / (x² + z²), 0 at the origin")
def atan2(adjoint, y, x, z):
    square = x * x + z * z
    inverse = square.masked_fill(square == 0, math.inf).reciprocal()
    return adjoint * z * inverse, adjoint * -x * inverse


@rule(aten.logaddexp.default, formula="x̄ = ȳ / conj(1 + exp(z - x)), z̄ = ȳ / conj(1 + exp(x - z))")
def logaddexp(adjoint, y, x, z):
    return adjoint / conj(1 + (z - x).exp()), adjoint / conj(1 + (x - z).exp())


@rule(aten.logaddexp2.default, formula="x̄ = ȳ / (1 + 2^(z - x)), z̄ = ȳ / (1 + 2^(x - z))")
def logaddexp2(adjoint, y, x, z):
    return adjoint / (1 + (z - x).exp2()), adjoint / (1 + (x - z).exp2())


@rule(aten.ldexp.Tensor, formula="x̄ = ȳ · 2^z, z̄ = ȳ · conj y · log 2")
def ldexp(adjoint, y, x, z):
    return adjoint * conj(torch.pow(2.0, z)), adjoint * conj(y) * math.log(2)


@rule(aten.frexp.Tensor, formula="x̄ = m̄ / 2^e")
def frexp(adjoint, y, x):
    return adjoint[0] / y[1].exp2() if adjoint[0] is not None else None
