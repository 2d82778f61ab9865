"""Scans: sums, products and log-sums of all elements up to each one. Adjoints scan from the other end."""

import torch

from memograd.rules.pointwise import conj
from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.cumsum.default, formula="x̄_i = Σ_{k≥i} ȳ_k")
def cumsum(adjoint, y, x, dim, dtype=None):
    return suffix_sums(adjoint, dim)


def suffix_sums(t, dim):
    """Σ_{k≥i} t_k."""
    if t.dim() == 0 or t.shape[dim] < 2:
        return t
    return t.flip(dim).cumsum(dim).flip(dim)


@rule(aten.cumprod.default, formula="x̄_i = Σ_{k≥i} ȳ_k · conj Π_{j≤k, j≠i} x_j")
def cumprod(adjoint, y, x, dim, dtype=None):
    """Where x_i ≠ 0 the product is y_k / x_i. At the first 0 it is the scan with that 0 replaced by 1; at a later 0
    it is 0. Each of these is an identity in the other elements, so it may be differentiated again."""
    x = x.to(y.dtype)
    if x.dim() == 0:
        return adjoint
    is_zero = x == 0
    first = is_zero & (is_zero.cumsum(dim) == 1)
    plain = suffix_sums(adjoint * conj(y), dim) / conj(x.masked_fill(is_zero, 1))
    others = suffix_sums(adjoint * conj(x.masked_fill(first, 1).cumprod(dim)), dim)
    return torch.where(first, others, plain.masked_fill(is_zero, 0))


@rule(aten.logcumsumexp.default, formula="x̄_i = Σ_{k≥i} ȳ_k · conj exp(x_i - y_k)")
def logcumsumexp(adjoint, y, x, dim):
    """In logarithms, positive and negative adjoints apart, so that exp cannot overflow on the way."""
    if x.dim() == 0 or x.numel() == 0:
        return adjoint
    if x.is_complex():
        return conj((_suffix(conj(adjoint).log() - y, dim) + x).exp())
    log_size = adjoint.abs().log()
    lowest = torch.full_like(adjoint, torch.finfo(adjoint.dtype).min)
    positive = _suffix(torch.where(adjoint > 0, log_size, lowest) - y, dim)
    negative = _suffix(torch.where(adjoint < 0, log_size, lowest) - y, dim)
    return (positive + x).exp() - (negative + x).exp()


def _suffix(t, dim):
    return t.flip(dim).logcumsumexp(dim).flip(dim)
