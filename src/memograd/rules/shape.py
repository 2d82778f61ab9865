"""Views and rearrangements: the adjoint takes the way back."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.t.default, formula="X̄ = Ȳᵀ")
def t(adjoint, y, x):
    return adjoint.t()
