"""Elementwise arithmetic and elementary functions."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.add.Tensor, formula="x̄ = ȳ, z̄ = α ȳ")
def add(adjoint, y, x, z, alpha=1):
    return adjoint, adjoint if alpha == 1 else adjoint * alpha


@rule(aten.sub.Tensor, formula="x̄ = ȳ, z̄ = -α ȳ")
def sub(adjoint, y, x, z, alpha=1):
    return adjoint, -adjoint if alpha == 1 else adjoint * -alpha


@rule(aten.mul.Tensor, formula="x̄ = ȳ · conj z, z̄ = ȳ · conj x")
def mul(adjoint, y, x, z):
    return adjoint * conj(z), adjoint * conj(x) if isinstance(z, torch.Tensor) else None


@rule(aten.sin.default, formula="x̄ = ȳ · conj cos x")
def sin(adjoint, y, x):
    return adjoint * conj(x.cos())


@rule(aten.cos.default, formula="x̄ = -ȳ · conj sin x")
def cos(adjoint, y, x):
    return adjoint * conj(-x.sin())


@rule(aten.relu.default, formula="x̄ = ȳ · [y > 0]")
def relu(adjoint, y, x):
    return aten.threshold_backward(adjoint, y, 0)


@rule(aten.sigmoid.default, formula="x̄ = ȳ · y (1 - y)")
def sigmoid(adjoint, y, x):
    return aten.sigmoid_backward(adjoint, y)


def conj(x):
    """Complex conjugate, materialized; the value itself for real numbers."""
    if isinstance(x, torch.Tensor):
        return x.conj_physical() if x.is_complex() else x
    return x.conjugate()
