"""Scans: sums, products and log-sums of all elements up to each one. Adjoints scan from the other end."""

import torch

from memograd.rules.calculus import conj
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
    """Without a division: at zeros too, and in every order, these are the sums of the products of the others."""
    x = conj(x.to(y.dtype))
    length = 1 if x.dim() == 0 else x.shape[dim]
    if length < 2:
        return adjoint
    before = torch.cat([torch.ones_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, length - 1)], dim).cumprod(dim)
    numbers = adjoint.isfinite().all() & ~x.isnan().any()

    def product(a, b):
        """A factor that is zero makes zero of a product of others that overflows."""
        whole = a * b
        return whole.masked_fill(whole.isnan() & ((a == 0) | (b == 0)) & numbers, 0)

    return product(before, _recurrence(adjoint, _ahead(x, 1, dim), dim, product))


def _recurrence(b, r, dim, product=torch.mul):
    """s_i = b_i + r_i · s_{i+1} by doubling: from s_i = b_i + r_i s_{i+k} follows the same with 2k."""
    step = 1
    while step < b.shape[dim]:
        b = b + product(r, _ahead(b, step, dim))
        r = product(r, _ahead(r, step, dim))
        step *= 2
    return b


def _ahead(t, step, dim):
    """t_{i+step}, and 0 beyond the end."""
    rest = t.shape[dim] - step
    return torch.cat([t.narrow(dim, step, rest), torch.zeros_like(t.narrow(dim, 0, step))], dim)


@rule(
    aten.logcumsumexp.default,
    formula="x̄_i = conj e^(x_i - y_i) · s_i, where s_i = ȳ_i + conj e^(y_i - y_{i+1}) · s_{i+1}",
)
def logcumsumexp(adjoint, y, x, dim):
    """Σ_{k≥i} ȳ_k exp(x_i - y_k), step by step: y grows along the dimension, so that no factor exceeds 1."""
    if x.dim() == 0 or x.shape[dim] < 2:
        return adjoint
    if x.dtype in (torch.float16, torch.bfloat16):  # exp would magnify how y was rounded
        x = x.float()
        y = x.logcumsumexp(dim)
    ratio = (-y.diff(dim=dim)).exp()
    ratio = torch.cat([ratio, torch.zeros_like(y.narrow(dim, 0, 1))], dim)
    return conj((x - y).exp()) * _recurrence(adjoint, conj(ratio), dim)
