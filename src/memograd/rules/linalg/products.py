"""Matrix products.

The adjoint of a product passes through the other factor, transposed: y = A B gives Ā = Ȳ Bᴴ and B̄ = Aᴴ Ȳ. Everything
here is that line in one shape or another.
"""

import torch

from memograd.rules.calculus import conj, scaled
from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default, formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ")
def mm(adjoint, y, a, b):
    return product(adjoint, b.mH, a), product(a.mH, adjoint, b)


@rule(aten.mm.dtype, aten.bmm.dtype, formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ")
def mm_dtype(adjoint, y, a, b, out_dtype):
    adjoint = adjoint.to(a.dtype)
    return adjoint @ b.mH, a.mH @ adjoint


@rule(aten.addmm.default, aten.baddbmm.default, formula="c̄ = conj β · ȳ, Ā = conj α · Ȳ Bᴴ, B̄ = conj α · Aᴴ Ȳ")
def addmm(adjoint, y, c, a, b, beta=1, alpha=1):
    through = scaled(adjoint, alpha)
    return scaled(adjoint, beta), product(through, b.mH, a), product(a.mH, through, b)


@rule(aten.addmm.dtype, aten.baddbmm.dtype, formula="c̄ = conj β · ȳ, Ā = conj α · Ȳ Bᴴ, B̄ = conj α · Aᴴ Ȳ")
def addmm_dtype(adjoint, y, c, a, b, out_dtype, beta=1, alpha=1):
    through = scaled(adjoint.to(a.dtype), alpha)
    return scaled(adjoint, beta), through @ b.mH, a.mH @ through


@rule(aten.addbmm.default, formula="c̄ = conj β · ȳ, Āᵢ = conj α · Ȳ Bᵢᴴ, B̄ᵢ = conj α · Aᵢᴴ Ȳ")
def addbmm(adjoint, y, c, a, b, beta=1, alpha=1):
    through = scaled(adjoint, alpha)
    return scaled(adjoint, beta), through @ b.mH, a.mH @ through


@rule(aten.mv.default, formula="Ā = ȳ xᴴ, x̄ = Aᴴ ȳ")
def mv(adjoint, y, a, x):
    return outer(adjoint, x), a.mH.mv(adjoint)


@rule(aten.addmv.default, formula="c̄ = conj β · ȳ, Ā = conj α · ȳ xᴴ, x̄ = conj α · Aᴴ ȳ")
def addmv(adjoint, y, c, a, x, beta=1, alpha=1):
    through = scaled(adjoint, alpha)
    return scaled(adjoint, beta), outer(through, x), a.mH.mv(through)


@rule(aten.addr.default, formula="c̄ = conj β · Ȳ, ū = conj α · Ȳ conj v, v̄ = conj α · Ȳᵀ conj u")
def addr(adjoint, y, c, u, v, beta=1, alpha=1):
    through = scaled(adjoint, alpha)
    return scaled(adjoint, beta), through.mv(conj(v)), through.t().mv(conj(u))


@rule(aten.dot.default, formula="x̄ = ȳ · conj z, z̄ = ȳ · conj x")
def dot(adjoint, y, x, z):
    return adjoint * conj(z), adjoint * conj(x)


@rule(aten.vdot.default, formula="y = conj(x)·z: x̄ = conj(ȳ) · z, z̄ = ȳ · x")
def vdot(adjoint, y, x, z):
    return conj(adjoint) * z, adjoint * x


@rule(aten._trilinear.default, formula="each factor's adjoint is the trilinear form of ȳ and the other two")
def trilinear(adjoint, y, a, b, c, expand_a, expand_b, expand_c, sumdim, unroll_dim=1):
    # All four live in one index space; a factor lacks the dimensions in its `expand`, the result those in `sumdim`.
    return (
        aten._trilinear(adjoint, conj(b), conj(c), sumdim, expand_b, expand_c, expand_a),
        aten._trilinear(conj(a), adjoint, conj(c), expand_a, sumdim, expand_c, expand_b),
        aten._trilinear(conj(a), conj(b), adjoint, expand_a, expand_b, sumdim, expand_c),
    )


def product(a, b, like):
    """a b, laid out in memory as ``like`` if that is a transposed matrix: (a b)ᵀ = bᵀ aᵀ. So the gradient of a weight,
    which is multiplied transposed, lies as the weight does, and whoever keeps it need not copy it."""
    if like.dim() == 2 and like.layout is torch.strided and like.is_contiguous() < like.mT.is_contiguous():
        return (b.mT @ a.mT).mT
    return a @ b


def outer(u, v):
    """u vᴴ of two vectors."""
    return u.unsqueeze(1) * conj(v).unsqueeze(0)
