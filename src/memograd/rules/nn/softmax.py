"""Softmax and its logarithm."""

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten


@rule(aten._softmax.default, formula="x̄ = y (ȳ - Σ ȳ y)", latex=r"\bar x = y \odot (\bar y - \sum \bar y y)")
def softmax(adjoint, y, x, dim, half_to_float):
    return aten._softmax_backward_data(adjoint, y, dim, x.dtype)


@rule(aten._log_softmax.default, formula="x̄ = ȳ - exp(y) Σ ȳ", latex=r"\bar x = \bar y - e^{y} \sum \bar y")
def log_softmax(adjoint, y, x, dim, half_to_float):
    return aten._log_softmax_backward_data(adjoint, y, dim, x.dtype)


# r = p (g - Σ g p) is bilinear in g and p but for the square of p in the second term:
#     ⟨r̄, dr⟩ = ⟨p (r̄ - Σ r̄ p), dg⟩ + ⟨r̄ (g - Σ g p) - g Σ r̄ p, dp⟩
@rule(aten._softmax_backward_data.default, formula="ḡ = p (r̄ - Σ r̄ p), p̄ = r̄ (g - Σ g p) - g Σ r̄ p")
def softmax_backward(adjoint, y, g, p, dim, input_dtype):
    adjoint = adjoint.to(p.dtype)
    inner = (adjoint * p).sum(dim, keepdim=True)
    return (adjoint - inner) * p, adjoint * (g - (g * p).sum(dim, keepdim=True)) - g * inner


@rule(aten._log_softmax_backward_data.default, formula="ḡ = r̄ - Σ r̄ exp(l), l̄ = -r̄ exp(l) Σ g")
def log_softmax_backward(adjoint, y, g, l, dim, input_dtype):
    weighted = adjoint.to(l.dtype) * l.exp()
    return adjoint - weighted.sum(dim, keepdim=True), -weighted * g.sum(dim, keepdim=True)


@rule(aten._safe_softmax.default, formula="x̄ = y (ȳ - Σ ȳ y)")
def safe_softmax(adjoint, y, x, dim, dtype=None):
    return aten._softmax_backward_data(adjoint, y, dim, x.dtype)


@rule(aten._masked_softmax.default, formula="x̄ = y (ȳ - Σ ȳ y) where not masked")
def masked_softmax(adjoint, y, x, mask, dim=None, mask_type=None):
    return aten._masked_softmax_backward(adjoint, y, mask, dim)


@expand(aten._masked_softmax_backward.default, formula="p (g - Σ g p)")
def masked_softmax_backward(g, p, mask, dim=None):
    dim = p.dim() - 1 if dim is None else dim
    return p * (g - (g * p).sum(dim, keepdim=True))
