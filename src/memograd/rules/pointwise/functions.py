"""Elementary functions of one variable: exponential, logarithm, circular and hyperbolic functions.

``conj`` is the identity for real numbers; for complex ones the adjoint meets the conjugate of the derivative.
"""

import math

import torch

from memograd.rules.calculus import conj
from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.exp.default, formula="x̄ = ȳ · conj y")
def exp(adjoint, y, x):
    return adjoint * conj(y)


@rule(aten.exp2.default, formula="x̄ = ȳ · conj y · log 2")
def exp2(adjoint, y, x):
    return adjoint * conj(y) * math.log(2)


@rule(aten.expm1.default, formula="x̄ = ȳ · conj(y + 1)")
def expm1(adjoint, y, x):
    return adjoint * (conj(y) + 1)


@rule(aten.log.default, formula="x̄ = ȳ / conj x")
def log(adjoint, y, x):
    return adjoint / conj(x)


@rule(aten.log10.default, formula="x̄ = ȳ / (conj x · log 10)")
def log10(adjoint, y, x):
    return adjoint / (conj(x) * math.log(10))


@rule(aten.log2.default, formula="x̄ = ȳ / (conj x · log 2)")
def log2(adjoint, y, x):
    return adjoint / (conj(x) * math.log(2))


@rule(aten.log1p.default, formula="x̄ = ȳ / conj(1 + x)")
def log1p(adjoint, y, x):
    return adjoint / conj(x + 1)


@rule(aten.sin.default, formula="x̄ = ȳ · conj cos x")
def sin(adjoint, y, x):
    return adjoint * conj(x.cos())


@rule(aten.cos.default, formula="x̄ = -ȳ · conj sin x")
def cos(adjoint, y, x):
    return adjoint * conj(-x.sin())


@rule(aten.tan.default, formula="x̄ = ȳ · conj(1 + y²)")
def tan(adjoint, y, x):
    return adjoint * conj(1 + y * y)


@rule(aten.sinh.default, formula="x̄ = ȳ · conj cosh x")
def sinh(adjoint, y, x):
    return adjoint * conj(x.cosh())


@rule(aten.cosh.default, formula="x̄ = ȳ · conj sinh x")
def cosh(adjoint, y, x):
    return adjoint * conj(x.sinh())


@rule(aten.asin.default, formula="x̄ = ȳ · conj(1 - x²)^-½")
def asin(adjoint, y, x):
    return adjoint * conj((1 - x * x).rsqrt())


@rule(aten.acos.default, formula="x̄ = -ȳ · conj(1 - x²)^-½")
def acos(adjoint, y, x):
    return adjoint * -conj((1 - x * x).rsqrt())


@rule(aten.atan.default, formula="x̄ = ȳ / conj(1 + x²)")
def atan(adjoint, y, x):
    return adjoint / conj(x * x + 1)


@rule(aten.asinh.default, formula="x̄ = ȳ · conj(x² + 1)^-½")
def asinh(adjoint, y, x):
    return adjoint * conj((x * x + 1).rsqrt())


@rule(aten.acosh.default, formula="x̄ = ȳ · conj(x² - 1)^-½, on the branch (x + 1)^-½ (x - 1)^-½ for complex x")
def acosh(adjoint, y, x):
    if x.is_complex():
        return adjoint * conj((x + 1).rsqrt() * (x - 1).rsqrt())
    return adjoint * (x * x - 1).rsqrt()


@rule(aten.atanh.default, formula="x̄ = ȳ / conj(1 - x²)")
def atanh(adjoint, y, x):
    return adjoint / conj(1 - x * x)


@rule(aten.deg2rad.default, formula="x̄ = ȳ · π / 180")
def deg2rad(adjoint, y, x):
    return adjoint * (math.pi / 180)


@rule(aten.rad2deg.default, formula="x̄ = ȳ · 180 / π")
def rad2deg(adjoint, y, x):
    return adjoint * (180 / math.pi)


@rule(aten.sinc.default, formula="x̄ = ȳ · conj((πx cos πx - sin πx) / (π x²)), 0 at x = 0")
def sinc(adjoint, y, x):
    angle, square = x * math.pi, x * x * math.pi
    return adjoint * conj((angle * angle.cos() - angle.sin()) / square).masked_fill(square == 0, 0)
