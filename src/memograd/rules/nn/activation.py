"""Activation functions, by ATen's fused backward kernels. ``activation_backward.py`` differentiates those again."""

import math

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.relu.default, formula="x̄ = ȳ · [y > 0]")
def relu(adjoint, y, x):
    return aten.threshold_backward(adjoint, y, 0)


@rule(aten.threshold.default, formula="x̄ = ȳ · [x > threshold]")
def threshold(adjoint, y, x, threshold, value):
    return aten.threshold_backward(adjoint, x, threshold)


@rule(aten.sigmoid.default, formula="x̄ = ȳ · conj(y (1 - y))")
def sigmoid(adjoint, y, x):
    return aten.sigmoid_backward(adjoint, y)


@rule(aten.tanh.default, formula="x̄ = ȳ · conj(1 - y²)")
def tanh(adjoint, y, x):
    return aten.tanh_backward(adjoint, y)


@rule(aten.log_sigmoid_forward.default, formula="x̄ = ȳ · σ(-x)")
def log_sigmoid(adjoint, y, x):
    return aten.log_sigmoid_backward(adjoint[0], x, y[1]) if adjoint[0] is not None else None


@rule(aten.softplus.default, formula="x̄ = ȳ · σ(βx), ȳ where βx > threshold")
def softplus(adjoint, y, x, beta=1, threshold=20):
    return aten.softplus_backward(adjoint, x, beta, threshold)


@rule(aten.gelu.default, formula="x̄ = ȳ · (Φ(x) + x φ(x)); with 'tanh', of ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))")
def gelu(adjoint, y, x, approximate="none"):
    return aten.gelu_backward(adjoint, x, approximate=approximate)


@rule(aten.silu.default, formula="x̄ = ȳ · σ(x) (1 + x (1 - σ(x)))")
def silu(adjoint, y, x):
    if x.is_complex():  # the fused kernel is real
        s = x.sigmoid()
        return adjoint * (s * (1 + x * (1 - s))).conj_physical()
    return aten.silu_backward(adjoint, x)


@rule(aten.mish.default, formula="x̄ = ȳ · (t + x σ(x) (1 - t²)), t = tanh(softplus x)")
def mish(adjoint, y, x):
    return aten.mish_backward(adjoint, x)


@rule(aten.elu.default, formula="x̄ = ȳ · s, for x ≤ 0: ȳ · s α k exp(k x)")
def elu(adjoint, y, x, alpha=1, scale=1, input_scale=1):
    return aten.elu_backward(adjoint, alpha, scale, input_scale, False, x)


@rule(aten.celu.default, formula="x̄ = ȳ, for x ≤ 0: ȳ · exp(x / α)")
def celu(adjoint, y, x, alpha=1.0):
    return aten.elu_backward(adjoint, alpha, 1, 1.0 / alpha, False, x)


# selu's constants (Klambauer et al. 2017, Self-Normalizing Neural Networks), as ATen has them.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@rule(aten.selu.default, formula="x̄ = ȳ · λ, for x ≤ 0: ȳ · λ α exp x")
def selu(adjoint, y, x):
    return aten.elu_backward(adjoint, _SELU_ALPHA, _SELU_SCALE, 1, False, x)


@rule(aten.leaky_relu.default, formula="x̄ = ȳ · (1 for x > 0, else slope)")
def leaky_relu(adjoint, y, x, negative_slope=0.01):
    return aten.leaky_relu_backward(adjoint, x, negative_slope, False)


@rule(aten.rrelu_with_noise_functional.default, formula="x̄ = ȳ · noise in training, else of leaky_relu((lo + hi) / 2)")
def rrelu(adjoint, y, x, noise, lower=0.125, upper=1 / 3, training=False, generator=None):
    # the kernel fills the noise, so the slopes used are in the second result
    if adjoint[0] is None:
        return None
    return aten.rrelu_with_noise_backward(adjoint[0], x, y[1], lower, upper, training, False)


@rule(aten._prelu_kernel.default, formula="x̄ = ȳ · (1 for x ≥ 0, else w), w̄ = ȳ · min(x, 0)")
def prelu(adjoint, y, x, w):
    return tuple(aten._prelu_kernel_backward(adjoint, x, w))


@rule(aten.hardtanh.default, formula="x̄ = ȳ · [lo < x < hi]")
def hardtanh(adjoint, y, x, min_val=-1, max_val=1):
    return aten.hardtanh_backward(adjoint, x, min_val, max_val)


@rule(aten.relu6.default, formula="x̄ = ȳ · [0 < x < 6]")
def relu6(adjoint, y, x):
    return aten.hardtanh_backward(adjoint, x, 0, 6)


@rule(aten.hardswish.default, formula="x̄ = ȳ · (0 for x < -3, 1 for x > 3, else x/3 + ½)")
def hardswish(adjoint, y, x):
    return aten.hardswish_backward(adjoint, x)


@rule(aten.hardsigmoid.default, formula="x̄ = ȳ / 6 · [-3 < x < 3]")
def hardsigmoid(adjoint, y, x):
    return aten.hardsigmoid_backward(adjoint, x)


@rule(aten.hardshrink.default, formula="x̄ = ȳ · [|x| > λ]")
def hardshrink(adjoint, y, x, lambd=0.5):
    return aten.hardshrink_backward(adjoint, x, lambd)


@rule(aten.softshrink.default, formula="x̄ = ȳ · [|x| > λ]")
def softshrink(adjoint, y, x, lambd=0.5):
    return aten.softshrink_backward(adjoint, x, lambd)


@rule(aten.glu.default, formula="[ā, b̄] = [ȳ · σ(b), ȳ · a σ(b) (1 - σ(b))] for x = [a, b]")
def glu(adjoint, y, x, dim=-1):
    return aten.glu_backward(adjoint, x, dim)


@rule(aten.logit.default, formula="x̄ = ȳ / (x (1 - x)); outside [ε, 1 - ε]: 0, without ε: nan")
def logit(adjoint, y, x, eps=None):
    low, high, outside = (0.0, 1.0, math.nan) if eps is None else (eps, 1 - eps, math.inf)
    return adjoint / (x * (1 - x)).masked_fill(~((x >= low) & (x <= high)), outside)
