"""Distances between the rows of one or two matrices: y[i, j] = ‖aᵢ - bⱼ‖ₚ.

∂y/∂aᵢ = sign(d) |d|ᵖ⁻¹ / yᵖ⁻¹ with d = aᵢ - bⱼ; 0 where y = 0, as in autograd
"""

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten

FORMULA = "āᵢ = Σⱼ ȳ[i, j] sign(d) |d|ᵖ⁻¹ / yᵖ⁻¹ with d = aᵢ - bⱼ; b̄ⱼ: minus the same, summed over i"


@rule(aten._cdist_forward.default, formula=FORMULA)
def cdist(adjoint, y, a, b, p, compute_mode):
    a_bar = aten._cdist_backward(adjoint.contiguous(), a, b, p, y)
    b_bar = aten._cdist_backward(adjoint.mT.contiguous(), b, a, p, y.mT.contiguous())
    return a_bar, b_bar


@expand(aten._cdist_backward.default, formula="Σⱼ g[i, j] sign(d) |d|ᵖ⁻¹ / yᵖ⁻¹")
def cdist_backward(g, a, b, p, y):
    d = a.unsqueeze(-2) - b.unsqueeze(-3)
    return (g.unsqueeze(-1) * slope(d, y.unsqueeze(-1), p)).sum(-2)


@rule(aten._euclidean_dist.default, formula=FORMULA)
def euclidean_dist(adjoint, y, a, b):
    # Σⱼ r (aᵢ - bⱼ) with r = ȳ / y, as two matrix products
    ratio = torch.where(y == 0, torch.zeros_like(y), adjoint / y)
    a_bar = a * ratio.sum(-1, keepdim=True) - ratio @ b
    b_bar = b * ratio.sum(-2).unsqueeze(-1) - ratio.mT @ a
    return a_bar, b_bar


@rule(aten._pdist_forward.default, formula="as for two matrices, over the pairs i < j")
def pdist(adjoint, y, a, p=2.0):
    return aten._pdist_backward(adjoint.contiguous(), a, p, y)


@expand(aten._pdist_backward.default, formula="Σ over the pairs i < j of g sign(d) |d|ᵖ⁻¹ / yᵖ⁻¹, at i; minus it at j")
def pdist_backward(g, a, p, y):
    i, j = torch.triu_indices(a.shape[0], a.shape[0], 1, device=a.device).unbind(0)
    terms = g.unsqueeze(-1) * slope(a.index_select(0, i) - a.index_select(0, j), y.unsqueeze(-1), p)
    zeros = torch.zeros_like(a)
    return zeros.index_add(0, i, terms).index_add(0, j, -terms)


def slope(d, y, p):
    """The derivative of ‖d‖ₚ = y with respect to d."""
    if p == 0:
        return torch.zeros_like(d)
    if p == 1:
        return d.sign()
    if p == float("inf"):
        return d.sign() * (d.abs() == y).to(d.dtype)
    safe = torch.where(y == 0, torch.ones_like(y), y)  # d = 0 there: the numerator is 0
    if p == 2:
        return d / safe
    size = d.abs()
    if p < 1:
        size = torch.where(d == 0, torch.ones_like(d), size)  # 0 there, as in autograd: sign(d) is
    return d.sign() * (size / safe).pow(p - 1)
