"""Reductions that pick elements: maxima, minima, medians, modes.

An operator that returns an index sends the adjoint there. One without an index shares it equally among all elements
that attain the value.
"""

import torch

from memograd.rules.reduce.sums_and_norms import dims_of, kept
from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.amax.default, aten.amin.default, formula="x̄ = ȳ · [x = y] / #[x = y]")
def amax(adjoint, y, x, dim=(), keepdim=False):
    return _shared(kept(adjoint, x, dim), x == kept(y, x, dim), x, dim)


@rule(
    aten.max.default,
    aten.min.default,
    aten.median.default,
    aten.nanmedian.default,
    formula="x̄ = ȳ · [x = y] / #[x = y], nan equal to nan",
)
def max_all(adjoint, y, x):
    return _shared(adjoint, (x == y) | (x.isnan() & y.isnan()), x, None)


@rule(aten.aminmax.default, formula="x̄ = lō · [x = lo] / #[x = lo] + hī · [x = hi] / #[x = hi]")
def aminmax(adjoint, y, x, dim=None, keepdim=False):
    total = None
    for part, value in zip(adjoint, y, strict=True):
        if part is not None:
            share = _shared(kept(part, x, dim), x == kept(value, x, dim), x, dim)
            total = share if total is None else total + share
    return total


def _shared(adjoint, chosen, x, dim):
    return adjoint * chosen / chosen.sum(dims_of(x, dim), keepdim=True)


@rule(
    aten.max.dim,
    aten.min.dim,
    aten.median.dim,
    aten.nanmedian.dim,
    formula="x̄_j = ȳ · [j = index]",
)
def max_dim(adjoint, y, x, dim, keepdim=False):
    return to_index(adjoint[0], y[1], x, dim)


@rule(aten.mode.default, formula="x̄_j = ȳ · [j = index]")
def mode(adjoint, y, x, dim=-1, keepdim=False):
    return to_index(adjoint[0], y[1], x, dim)


@rule(aten.kthvalue.default, formula="x̄_j = ȳ · [j = index]")
def kthvalue(adjoint, y, x, k, dim=-1, keepdim=False):
    return to_index(adjoint[0], y[1], x, dim)


def to_index(adjoint, index, x, dim):
    """Zeros, with the adjoint where ``index`` points to along ``dim``."""
    if adjoint is None:
        return None
    return torch.zeros_like(x).scatter(dim, kept(index, x, dim), kept(adjoint, x, dim))


@rule(aten.cummax.default, aten.cummin.default, formula="x̄_j = Σ ȳ_i · [j = index_i]")
def cummax(adjoint, y, x, dim):
    if adjoint[0] is None:
        return None
    return torch.zeros_like(x).scatter_add(dim, y[1], adjoint[0])
