"""Special functions: error functions, gamma functions, Bessel functions, x log y."""

import math

import torch

from memograd.rules.calculus import is_tensor
from memograd.rules.registry import Refused, refuse, rule

aten = torch.ops.aten

_OF_FIRST = Refused("the derivative with respect to the first argument has no closed form; detach that argument")


@rule(aten.erf.default, formula="x̄ = ȳ · 2/√π exp(-x²)")
def erf(adjoint, y, x):
    return 2 / math.sqrt(math.pi) * (-x * x).exp() * adjoint


@rule(aten.erfc.default, formula="x̄ = -ȳ · 2/√π exp(-x²)")
def erfc(adjoint, y, x):
    return -2 / math.sqrt(math.pi) * (-x * x).exp() * adjoint


@rule(aten.special_erfcx.default, formula="x̄ = ȳ · (2 x y - 2/√π)")
def erfcx(adjoint, y, x):
    return (2 * x * y - 2 / math.sqrt(math.pi)) * adjoint


@rule(aten.erfinv.default, formula="x̄ = ȳ · ½√π exp(y²)")
def erfinv(adjoint, y, x):
    return 0.5 * math.sqrt(math.pi) * (y * y).exp() * adjoint


@rule(aten.lgamma.default, formula="x̄ = ȳ · ψ(x)")
def lgamma(adjoint, y, x):
    return adjoint * x.digamma()


@rule(aten.mvlgamma.default, formula="x̄ = ȳ · Σ_j ψ(x + (1 - j) / 2), j = 1..p")
def mvlgamma(adjoint, y, x, p):
    halves = torch.arange(-p / 2 + 0.5, 0.5, 0.5, dtype=x.dtype, device=x.device)
    return adjoint * (x.unsqueeze(-1) + halves).digamma().sum(-1)


@rule(aten.digamma.default, formula="x̄ = ȳ · ψ'(x)")
def digamma(adjoint, y, x):
    return adjoint * torch.polygamma(1, x)


@rule(aten.polygamma.default, formula="x̄ = ȳ · ψ⁽ⁿ⁺¹⁾(x)")
def polygamma(adjoint, y, n, x):
    return None, adjoint * torch.polygamma(n + 1, x)


@rule(aten.igamma.default, formula="x̄ = ȳ · x^(a-1) exp(-x) / Γ(a); ā is not known in closed form")
def igamma(adjoint, y, a, x):
    return _OF_FIRST, adjoint * _gamma_density(a, x)


@rule(aten.igammac.default, formula="x̄ = -ȳ · x^(a-1) exp(-x) / Γ(a); ā is not known in closed form")
def igammac(adjoint, y, a, x):
    return _OF_FIRST, -adjoint * _gamma_density(a, x)


def _gamma_density(a, x):
    return ((a - 1) * x.log() - x - a.lgamma()).exp()


@rule(aten.special_zeta.default, aten.special_zeta.self_scalar, formula="q̄ = -ȳ · s ζ(s + 1, q); s̄ is not known")
def zeta(adjoint, y, s, q):
    return _OF_FIRST, adjoint * -s * torch.special.zeta(s + 1.0, q)


refuse(aten.special_zeta.other_scalar, why="the derivative of zeta(s, q) with respect to s has no closed form")


@rule(aten.xlogy.Tensor, aten.xlogy.Scalar_Other, formula="x̄ = ȳ · log z, 0 where x = 0 and z ≤ 0; z̄ = ȳ · x / z")
def xlogy(adjoint, y, x, z):
    to_x = torch.xlogy(adjoint, z)
    if is_tensor(z):
        return to_x.masked_fill((x == 0) & (z <= 0), 0), adjoint * x / z
    return to_x if z > 0 else to_x.masked_fill(x == 0, 0)


@rule(aten.xlogy.Scalar_Self, formula="z̄ = ȳ · x / z")
def xlogy_number(adjoint, y, x, z):
    return None, adjoint * x / z


@rule(
    aten.special_xlog1py.default,
    aten.special_xlog1py.other_scalar,
    formula="x̄ = ȳ · log(1 + z), 0 where x = 0 and z ≤ -1; z̄ = ȳ · x / (1 + z)",
)
def xlog1py(adjoint, y, x, z):
    to_x = torch.special.xlog1py(adjoint, z)
    if is_tensor(z):
        return to_x.masked_fill((x == 0) & (z <= -1), 0), adjoint * x / (z + 1)
    return to_x if z > -1 else to_x.masked_fill(x == 0, 0)


@rule(aten.special_xlog1py.self_scalar, formula="z̄ = ȳ · x / (1 + z)")
def xlog1py_number(adjoint, y, x, z):
    return None, adjoint * x / (z + 1)


@rule(aten.special_entr.default, formula="x̄ = -ȳ · (1 + log x)")
def entr(adjoint, y, x):
    return adjoint * -(1 + x.log())


@rule(aten.special_ndtri.default, formula="x̄ = ȳ · √(2π) exp(y² / 2)")
def ndtri(adjoint, y, x):
    return adjoint * math.sqrt(2 * math.pi) * (y * y / 2).exp()


@rule(aten.special_log_ndtr.default, formula="x̄ = ȳ · exp(-y - x² / 2) / √(2π)")
def log_ndtr(adjoint, y, x):
    return adjoint / math.sqrt(2 * math.pi) * (-(y + x * x / 2)).exp()


@rule(aten.i0.default, aten.special_i0.default, formula="x̄ = ȳ · I₁(x)")
def i0(adjoint, y, x):
    return adjoint * torch.special.i1(x)


@rule(aten.special_i0e.default, formula="x̄ = ȳ · (I₁(x) exp(-|x|) - sgn(x) y)")
def i0e(adjoint, y, x):
    return adjoint * (torch.special.i1e(x) - x.sgn() * y)


# I₁' = I₀ - I₁ / x, and ½ at x = 0. The division is kept away from 0 so that no nan enters a further derivative.


@rule(aten.special_i1.default, formula="x̄ = ȳ · (I₀(x) - y / x), ½ ȳ at x = 0")
def i1(adjoint, y, x):
    safe, near = _away_from_zero(x)
    return adjoint * torch.where(near, torch.full_like(x, 0.5), torch.special.i0(safe) - y / safe)


@rule(aten.special_i1e.default, formula="x̄ = ȳ · (I₀(x) exp(-|x|) - y (sgn x + 1 / x)), ½ ȳ at x = 0")
def i1e(adjoint, y, x):
    safe, near = _away_from_zero(x)
    slope = torch.special.i0e(safe) - y * (safe.sgn() + safe.reciprocal())
    return adjoint * torch.where(near, torch.full_like(x, 0.5), slope)


def _away_from_zero(x):
    eps = torch.finfo(x.dtype).eps
    near = ~(x.abs() > eps)
    return torch.where(near, torch.full_like(x, eps), x), near


@rule(aten._standard_gamma.default, formula="x̄ = ȳ · ∂y/∂x by implicit reparametrization")
def standard_gamma(adjoint, y, x, generator=None):
    return adjoint * aten._standard_gamma_grad(x, y)


refuse(
    aten._standard_gamma_grad.default,
    why="the second derivative of a gamma sample in its shape is not known, to autograd neither",
)
