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


@rule(aten.cumprod.default, formula="x̄_i = conj Π_{j<i} x_j · s_i, where s_i = ȳ_i + conj x_{i+1} · s_{i+1}")
def cumprod(adjoint, y, x, dim, dtype=None):
    """Without a division: at zeros too, and in every order, these are the sums of the products of the others.

    The recurrence is solved by doubling: from s_i = b_i + r_i s_{i+k} follows
    s_i = (b_i + r_i b_{i+k}) + r_i r_{i+k} s_{i+2k}.
    """
    x = conj(x.to(y.dtype))
    length = 1 if x.dim() == 0 else x.shape[dim]
    if length < 2:
        return adjoint
    before = torch.cat([torch.ones_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, length - 1)], dim).cumprod(dim)
    total, ratio, step = adjoint, _ahead(x, 1, dim), 1
    while step < length:
        total = total + ratio * _ahead(total, step, dim)
        ratio = ratio * _ahead(ratio, step, dim)
        step *= 2
    return before * total


def _ahead(t, step, dim):
    """t_{i+step}, and 0 beyond the end."""
    rest = t.shape[dim] - step
    return torch.cat([t.narrow(dim, step, rest), torch.zeros_like(t.narrow(dim, 0, step))], dim)


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
