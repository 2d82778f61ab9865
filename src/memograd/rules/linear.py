"""Matrix products."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.mm.default, formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ")
def mm(adjoint, y, a, b):
    return adjoint @ b.mH, a.mH @ adjoint


@rule(aten.addmm.default, formula="c̄ = β ȳ, Ā = α Ȳ Bᴴ, B̄ = α Aᴴ Ȳ")
def addmm(adjoint, y, c, a, b, beta=1, alpha=1):
    scaled = adjoint if alpha == 1 else adjoint * alpha
    return adjoint if beta == 1 else adjoint * beta, scaled @ b.mH, a.mH @ scaled
