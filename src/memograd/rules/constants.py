"""Operators without a gradient, and operators whose gradient is zero."""

import torch

from memograd.rules.registry import constant, zero

aten = torch.ops.aten

# New tensors that only ask for shape, dtype and device.
constant(
    aten.empty, aten.empty_like, aten.empty_strided, aten.empty_permuted, aten.new_empty, aten.new_empty_strided,
    aten.zeros, aten.zeros_like, aten.new_zeros, aten.ones, aten.ones_like, aten.new_ones,
    aten.full, aten.full_like, aten.new_full, aten.scalar_tensor, aten.eye, aten.arange, aten.linspace, aten.logspace,
    aten.tril_indices, aten.triu_indices, aten._efficientzerotensor,
    aten._new_zeros_with_same_feature_meta,
    aten.hann_window, aten.hamming_window, aten.bartlett_window, aten.blackman_window, aten.kaiser_window,
)  # fmt: skip

# Random numbers, whatever their shape is taken from.
constant(
    aten.rand, aten.rand_like, aten.randn, aten.randn_like, aten.randint, aten.randint_like, aten.randperm,
    aten.multinomial, aten.normal.float_float,
)  # fmt: skip

# Tests, counts and positions: integers and truth values.
constant(
    aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.isnan, aten.isinf, aten.isposinf, aten.isneginf,
    aten.isfinite, aten.isclose, aten.signbit, aten.logical_and, aten.logical_or, aten.logical_xor, aten.logical_not,
    aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor, aten.bitwise_not, aten.any, aten.all, aten.isin,
    aten._is_all_true, aten._is_any_true, aten.argmax, aten.argmin, aten.argsort, aten.count_nonzero, aten.nonzero,
    aten.nonzero_static, aten.searchsorted, aten.bucketize, aten.histc, aten.bincount, aten.one_hot, aten.equal,
    aten.view.dtype, aten.view_copy.dtype,
)  # fmt: skip

# A gradient of zeros, as autograd has it: what was there before is overwritten, or is only a distribution's parameter.
zero(
    aten.fill.Scalar, aten.zero.default, aten.bernoulli, aten.poisson.default, aten.normal.Tensor_float,
    aten.normal.float_Tensor, aten.normal.Tensor_Tensor, aten.normal_functional.default, aten.uniform.default,
    aten.random, aten.exponential.default, aten.cauchy.default, aten.log_normal.default, aten.geometric.default,
)  # fmt: skip
