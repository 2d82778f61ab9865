"""Sparse tensors (COO) that a program makes of indices and values, and what turns them dense again.

Their adjoints are dense. What autograd calls the gradient by a sparse tensor is that at its indices only, and whatever
makes one here takes no more than that, so none has to be masked.
"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten._sparse_coo_tensor_with_dims_and_tensors.default, formula="v̄ = ȳ at the indices")
def sparse_coo_tensor(adjoint, y, sparse_dim, dense_dim, size, indices, values, **options):
    return None, None, None, None, adjoint[tuple(indices.unbind(0))]


@rule(aten._coalesce.default, formula="x̄ = ȳ")
def coalesce(adjoint, y, x):
    return adjoint


@rule(aten._to_dense.default, formula="x̄ = ȳ")
def to_dense(adjoint, y, x, dtype=None, masked_grad=None):
    return adjoint


@rule(aten._sparse_addmm.default, formula="x̄ = β ȳ, Ā = α ȳ Bᵀ, B̄ = α Aᵀ ȳ")
def sparse_addmm(adjoint, y, x, a, b, beta=1, alpha=1):
    return adjoint * beta, adjoint @ b.mH * alpha, a.mH @ adjoint * alpha
