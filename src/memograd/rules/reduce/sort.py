"""Sorting: a permutation that is locally constant, so the adjoint is permuted back."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.sort.default, formula="x̄_j = ȳ_i where j = index_i")
def sort(adjoint, y, x, dim=-1, descending=False):
    return _back(adjoint[0], y[1], x, dim)


@rule(aten.sort.stable, formula="x̄_j = ȳ_i where j = index_i")
def sort_stable(adjoint, y, x, stable=None, dim=-1, descending=False):
    return _back(adjoint[0], y[1], x, dim)


@rule(aten.topk.default, formula="x̄_j = ȳ_i where j = index_i, else 0")
def topk(adjoint, y, x, k, dim=-1, largest=True, sorted=True):
    return _back(adjoint[0], y[1], x, dim)


def _back(adjoint, index, x, dim):
    return None if adjoint is None else torch.zeros_like(x).scatter(dim, index, adjoint)
