"""Matrix products.

The adjoint of a product passes through the other factor, transposed: y = A B gives Ā = Ȳ Bᴴ and B̄ = Aᴴ Ȳ. Everything
here is that line in one shape or another.
"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.mm.default, aten.bmm.default, formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ")
def mm(adjoint, y, a, b):
    return adjoint @ b.mH, a.mH @ adjoint


@rule(aten.mm.dtype, aten.bmm.dtype, formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ")
def mm_dtype(adjoint, y, a, b, out_dtype):
    adjoint = adjoint.to(a.dtype)
    return adjoint @ b.mH, a.mH @ adjoint


@rule(aten.addmm.default, aten.baddbmm.default, formula="c̄ = β ȳ, Ā = α Ȳ Bᴴ, B̄ = α Aᴴ Ȳ")
def addmm(adjoint, y, c, a, b, beta=1, alpha=1):
    scaled = times(adjoint, alpha)
    return times(adjoint, beta), scaled @ b.mH, a.mH @ scaled


@rule(aten.addmm.dtype, aten.baddbmm.dtype, formula="c̄ = β ȳ, Ā = α Ȳ Bᴴ, B̄ = α Aᴴ Ȳ")
def addmm_dtype(adjoint, y, c, a, b, out_dtype, beta=1, alpha=1):
    scaled = times(adjoint.to(a.dtype), alpha)
    return times(adjoint, beta), scaled @ b.mH, a.mH @ scaled


@rule(aten.addbmm.default, formula="c̄ = β ȳ, Āᵢ = α Ȳ Bᵢᴴ, B̄ᵢ = α Aᵢᴴ Ȳ")
def addbmm(adjoint, y, c, a, b, beta=1, alpha=1):
    scaled = times(adjoint, alpha)
    return times(adjoint, beta), scaled @ b.mH, a.mH @ scaled


@rule(aten.mv.default, formula="Ā = ȳ xᴴ, x̄ = Aᴴ ȳ")
def mv(adjoint, y, a, x):
    return outer(adjoint, x), a.mH.mv(adjoint)


@rule(aten.addmv.default, formula="c̄ = β ȳ, Ā = α ȳ xᴴ, x̄ = α Aᴴ ȳ")
def addmv(adjoint, y, c, a, x, beta=1, alpha=1):
    scaled = times(adjoint, alpha)
    return times(adjoint, beta), outer(scaled, x), a.mH.mv(scaled)


@rule(aten.addr.default, formula="c̄ = β Ȳ, ū = α Ȳ conj v, v̄ = α Ȳᵀ conj u")
def addr(adjoint, y, c, u, v, beta=1, alpha=1):
    scaled = times(adjoint, alpha)
    return times(adjoint, beta), scaled.mv(_conj(v)), scaled.t().mv(_conj(u))


@rule(aten.dot.default, formula="x̄ = ȳ · conj z, z̄ = ȳ · conj x")
def dot(adjoint, y, x, z):
    return adjoint * _conj(z), adjoint * _conj(x)


@rule(aten.vdot.default, formula="y = conj(x)·z: x̄ = conj(ȳ) · z, z̄ = ȳ · x")
def vdot(adjoint, y, x, z):
    return _conj(adjoint) * z, adjoint * x


@rule(aten._trilinear.default, formula="each factor's adjoint is the trilinear form of ȳ and the other two")
def trilinear(adjoint, y, a, b, c, expand_a, expand_b, expand_c, sumdim, unroll_dim=1):
    # All four live in one index space; a factor lacks the dimensions in its `expand`, the result those in `sumdim`.
    for dim in sorted(sumdim):
        adjoint = adjoint.unsqueeze(dim)
    a_full, b_full, c_full = _unsqueezed(a, expand_a), _unsqueezed(b, expand_b), _unsqueezed(c, expand_c)
    return (
        _summed(adjoint * _conj(b_full) * _conj(c_full), expand_a),
        _summed(adjoint * _conj(a_full) * _conj(c_full), expand_b),
        _summed(adjoint * _conj(a_full) * _conj(b_full), expand_c),
    )


def times(x, factor):
    """``x · factor``, without an operator for the factor 1."""
    return x if isinstance(factor, (int, float)) and factor == 1 else x * factor


def outer(u, v):
    """u vᴴ of two vectors."""
    return u.unsqueeze(1) * _conj(v).unsqueeze(0)


def _conj(x):
    return x.conj_physical() if x.is_complex() else x


def _unsqueezed(x, dims):
    for dim in sorted(dims):
        x = x.unsqueeze(dim)
    return x


def _summed(x, dims):
    return x.sum(sorted(dims)) if dims else x
