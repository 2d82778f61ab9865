"""Fake quantization, for quantization-aware training.

Rounding has derivative zero; what is used instead is the straight-through estimator (Bengio, Léonard & Courville 2013):
the rounding is passed over, and only values outside of the quantized range get no adjoint. The kernels hand out that
mask with their result.
"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(
    aten.fake_quantize_per_tensor_affine_cachemask.default,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default,
    aten.fake_quantize_per_channel_affine_cachemask.default,
    aten._fused_moving_avg_obs_fq_helper_functional.default,
    formula="x̄ = ȳ · [q_min ≤ x / scale + zero_point ≤ q_max]",
    latex=r"\bar x = \bar y \cdot [q_{\min} \le x / s + z \le q_{\max}]",
)
def fake_quantize(adjoint, y, x, *how, **named):
    mask = y[1]
    return adjoint[0] * mask


# The learnable kind has slopes in scale and zero point too (Esser et al. 2020, "Learned step size quantization").
@rule(
    aten._fake_quantize_learnable_per_tensor_affine.default,
    formula="x̄ = ȳ · [inside]; s̄ = Σ ȳ (y - x) / s inside, ȳ (q_min or q_max - z) outside; z̄ = -Σ ȳ s [outside]",
)
def learnable_per_tensor(adjoint, y, x, scale, zero_point, low, high, factor=1.0):
    return aten._fake_quantize_learnable_per_tensor_affine_backward(adjoint, x, scale, zero_point, low, high, factor)


@rule(
    aten._fake_quantize_learnable_per_channel_affine.default,
    formula="x̄ = ȳ · [inside]; s̄ = Σ ȳ (y - x) / s inside, ȳ (q_min or q_max - z) outside; z̄ = -Σ ȳ s [outside]",
)
def learnable_per_channel(adjoint, y, x, scale, zero_point, axis, low, high, factor=1.0):
    return aten._fake_quantize_learnable_per_channel_affine_backward(
        adjoint, x, scale, zero_point, axis, low, high, factor
    )
