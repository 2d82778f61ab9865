"""Reductions that use all elements: sums, means, products, variances, norms.

``kept(t, x, dim)`` puts the reduced dimensions back, with size one; broadcasting does the rest.
"""

import math
from typing import Any

import torch

from memograd.rules.calculus import conj
from memograd.rules.registry import rule

aten = torch.ops.aten


def dims_of(x, dim):
    """The reduced dimensions, none of them negative; ``None`` and ``[]`` mean all."""
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return list(range(x.dim()))
    chosen = [dim] if isinstance(dim, int) else dim
    return sorted(d % x.dim() for d in chosen) if x.dim() else []


def kept(t, x, dim) -> Any:
    """``t``, a reduction of ``x`` over ``dim``, with the reduced dimensions in place."""
    if t is None:
        return None
    reduced = dims_of(x, dim)
    return t.reshape([1 if i in reduced else n for i, n in enumerate(x.shape)])


def count(x, dim):
    """How many elements are reduced to one."""
    return math.prod(x.shape[d] for d in dims_of(x, dim))


@rule(aten.sum.default, formula="x̄_i = ȳ")
def sum_all(adjoint, y, x, dtype=None):
    return adjoint.expand(x.shape)


@rule(aten.sum.dim_IntList, formula="x̄_i = ȳ")
def sum_dim(adjoint, y, x, dim, keepdim=False, dtype=None):
    return kept(adjoint, x, dim).expand(x.shape)


@rule(aten.nansum.default, formula="x̄_i = ȳ · [x_i is a number]")
def nansum(adjoint, y, x, dim=None, keepdim=False, dtype=None):
    return kept(adjoint, x, dim).to(x.dtype) * ~x.isnan()


@rule(aten.mean.default, formula="x̄_i = ȳ / n")
def mean_all(adjoint, y, x, dtype=None):
    return adjoint.expand(x.shape) / x.numel()


@rule(aten.mean.dim, formula="x̄_i = ȳ / n")
def mean_dim(adjoint, y, x, dim, keepdim=False, dtype=None):
    return kept(adjoint, x, dim).expand(x.shape) / count(x, dim)


@rule(aten.trace.default, formula="X̄ = ȳ I")
def trace(adjoint, y, x):
    return adjoint * torch.eye(*x.shape, dtype=x.dtype, device=x.device)


@rule(aten.var.correction, formula="x̄ = ȳ · 2 (x - mean x) / (n - correction)")
def var(adjoint, y, x, dim=None, correction=1, keepdim=False):
    return _var(adjoint, x, dim, correction)


@rule(aten.std.correction, formula="x̄ = ȳ · (x - mean x) / (y (n - correction)), 0 where y = 0")
def std(adjoint, y, x, dim=None, correction=1, keepdim=False):
    return _var(adjoint / (y * 2).masked_fill(y == 0, math.inf), x, dim, correction)


@rule(aten.var_mean.correction, formula="x̄ = v̄ · 2 (x - m) / (n - correction) + m̄ / n")
def var_mean(adjoint, y, x, dim=None, correction=1, keepdim=False):
    spread = None if adjoint[0] is None else _var(adjoint[0], x, dim, correction)
    return _plus_mean(spread, adjoint[1], x, dim)


@rule(aten.std_mean.correction, formula="x̄ = s̄ · (x - m) / (s (n - correction)) + m̄ / n, the first 0 where s = 0")
def std_mean(adjoint, y, x, dim=None, correction=1, keepdim=False):
    spread = None if adjoint[0] is None else std(adjoint[0], y[0], x, dim, correction)
    return _plus_mean(spread, adjoint[1], x, dim)


def _var(adjoint, x, dim, correction):
    freedom = count(x, dim) - (1 if correction is None else correction)
    deviation = x - x.mean(dims_of(x, dim), keepdim=True)
    if freedom > 0:
        return (2.0 / freedom) * kept(adjoint, x, dim) * deviation
    if len(dims_of(x, dim)) == x.dim() and (dim is None or not dim):  # as autograd: infinite, undefined at the mean
        infinite = torch.full_like(x, math.inf).masked_fill(deviation == 0, math.nan)
        return adjoint * infinite
    return (2.0 / freedom if freedom else math.inf) * kept(adjoint, x, dim) * deviation


def _plus_mean(spread, adjoint, x, dim):
    if adjoint is None:
        return spread
    mean = mean_dim(adjoint, None, x, dim)
    return mean if spread is None else spread + mean


@rule(aten.prod.default, formula="x̄_i = ȳ · conj Π_{j≠i} x_j")
def prod_all(adjoint, y, x, dtype=None):
    flat = x.to(adjoint.dtype).reshape(-1)
    return (adjoint * conj(product_of_others(flat, 0))).reshape(x.shape)


@rule(aten.prod.dim_int, formula="x̄_i = ȳ · conj Π_{j≠i} x_j")
def prod_dim(adjoint, y, x, dim, keepdim=False, dtype=None):
    if x.dim() == 0:
        return adjoint
    return kept(adjoint, x, dim) * conj(product_of_others(x.to(adjoint.dtype), dim))


def product_of_others(x, dim):
    """Π_{j<i} x_j · Π_{j>i} x_j: no division, so zeros among the factors are no special case.

    But for one: where some factors together leave the range of their dtype and another is 0, the product is 0, not
    0 · ∞. Nothing else is set to a constant, for the next derivative goes through here."""
    n = x.shape[dim]
    if n < 2:
        return torch.ones_like(x)
    one = torch.ones_like(x.narrow(dim, 0, 1))
    before = torch.cat([one, x.narrow(dim, 0, n - 1)], dim).cumprod(dim)
    after = torch.cat([one, x.narrow(dim, 1, n - 1).flip(dim)], dim).cumprod(dim).flip(dim)
    product, zero = before * after, x == 0
    others = zero.sum(dim, keepdim=True) > zero.to(torch.int64)  # is one of the others 0?
    return product.masked_fill(product.isnan() & others & ~x.isnan().any(), 0)


@rule(aten.logsumexp.default, formula="x̄ = ȳ · conj exp(x - y)")
def logsumexp(adjoint, y, x, dim, keepdim=False):
    return kept(adjoint, x, dim) * conj((x - kept(y, x, dim)).exp())


@rule(aten.linalg_vector_norm.default, formula="x̄ = ȳ · sgn(x) |x|^(p-1) / y^(p-1), 0 where y = 0")
def vector_norm(adjoint, y, x, ord=2, dim=None, keepdim=False, dtype=None):
    return norm_adjoint(adjoint, y, x if dtype is None else x.to(dtype), ord, dim)


@rule(aten.norm.Scalar, formula="as linalg_vector_norm")
def norm(adjoint, y, x, p=2):
    return norm_adjoint(adjoint, y, x, 2 if p is None else p, None)


@rule(aten.norm.ScalarOpt_dim, aten.norm.ScalarOpt_dim_dtype, formula="as linalg_vector_norm")
def norm_dim(adjoint, y, x, p, dim, keepdim=False, dtype=None):
    return norm_adjoint(adjoint, y, x if dtype is None else x.to(dtype), 2 if p is None else p, dim)


@rule(aten.norm.ScalarOpt_dtype, formula="as linalg_vector_norm")
def norm_dtype(adjoint, y, x, p, dtype=None):
    return norm_adjoint(adjoint, y, x if dtype is None else x.to(dtype), 2 if p is None else p, None)


@rule(aten.dist.default, formula="as the norm of x - z")
def dist(adjoint, y, x, z, p=2):
    part = norm_adjoint(adjoint, y, x - z, p, None)
    return part, None if part is None else -part


def norm_adjoint(adjoint, y, x, p, dim):
    """x̄ of y = (Σ |x|^p)^(1/p). Where y = 0 there is no derivative; autograd and we say 0."""
    g, y = kept(adjoint, x, dim), kept(y, x, dim)
    if p == 0:  # a count: autograd has no gradient, and not one of zeros
        return None
    if p == 1:
        return x.sgn() * g
    if p == 2:
        return g * (x / y).masked_fill(y == 0, 0)
    if math.isinf(p):
        largest = (x.abs() == y) | x.isnan()
        return x.sgn() * ((g / largest.sum(dims_of(x, dim), keepdim=True)) * largest)
    if p < 1:
        return (x.sgn() * x.abs().pow(p - 1)).masked_fill(x == 0, 0) * g * y.pow(1 - p)
    direction = x.sgn() * x.abs().pow(p - 1) if p < 2 else x * x.abs().pow(p - 2)
    return direction * (g / y.pow(p - 1).masked_fill(y == 0, math.inf))
