"""Rows in groups: reductions of each segment, and one matrix product for each group (mixtures of experts)."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.segment_reduce.default, formula="x̄ = ȳ of x's segment; max, min: at the extrema; mean: / its length")
def segment_reduce(adjoint, y, x, reduce, **how):
    known = {name: how.get(name) for name in ("lengths", "offsets", "initial")}
    return aten._segment_reduce_backward(adjoint, y, x, reduce, axis=how.get("axis", 0), **known)


@rule(
    aten._grouped_mm.default,
    formula="Ā = Ȳ Bᴴ, B̄ = Aᴴ Ȳ, group by group",
    latex=r"\bar A = \bar Y B^H,\ \bar B = A^H \bar Y",
)
def grouped_mm(adjoint, y, a, b, offs=None, bias=None, out_dtype=None):
    """``offs`` ends the groups along whichever dimension two of A, B and Y share; the third has one matrix a group."""
    return aten._grouped_mm(adjoint, b.mT, offs), aten._grouped_mm(a.mT, adjoint, offs)
