"""Reductions over dimensions."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.sum.default, formula="x̄_i = ȳ")
def sum_all(adjoint, y, x, dtype=None):
    return adjoint.expand(x.shape)
