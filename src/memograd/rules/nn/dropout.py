"""Dropout kernels. (Most dropout arrives as ``bernoulli``, ``div`` and ``mul``, and needs no rule of its own.)"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.native_dropout.default, formula="x̄ = ȳ · mask / (1 - p)")
def native_dropout(adjoint, y, x, p, train):
    if train is False:
        return adjoint[0]
    return aten.native_dropout_backward(adjoint[0], y[1], 0.0 if p == 1 else 1 / (1 - p))


@rule(aten.native_dropout_backward.default, formula="ḡ = r̄ · mask · scale")
def native_dropout_backward(adjoint, y, g, mask, scale):
    return aten.native_dropout_backward(adjoint, mask, scale)


@rule(aten._fused_dropout.default, formula="x̄ = ȳ · mask / p, where p is the probability to keep")
def fused_dropout(adjoint, y, x, p, generator=None):
    return aten._masked_scale(adjoint[0], y[1], 1 / p)


@rule(aten._masked_scale.default, formula="x̄ = ȳ · mask · scale")
def masked_scale(adjoint, y, x, mask, scale):
    return aten._masked_scale(adjoint, mask, scale)
