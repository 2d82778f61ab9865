"""The backward kernels of activation functions, differentiated once more.

A kernel is g = ḡ · f'(x), linear in ``g``: its adjoint with respect to ``g`` is the kernel again, and with respect to
``x`` it is ȳ · g · f''(x). Piecewise linear functions have f'' = 0; autograd returns zeros there, and so do we.
The operators come in the order of PyTorch's own: in which sums of their derivatives are formed depends on it.
"""

import math

import torch

from memograd.rules.calculus import conj
from memograd.rules.registry import rule

aten = torch.ops.aten


def _linear_kernel(kernel):
    """A rule for a kernel of a piecewise linear function: itself on the adjoint, nothing but zeros to ``x``."""

    @rule(kernel, formula="ḡ = ȳ · f'(x), x̄ = 0: f is piecewise linear")
    def piecewise(adjoint, y, g, x, *rest):
        return kernel(adjoint, x, *rest), torch.zeros_like(x)

    return piecewise


threshold_backward = _linear_kernel(aten.threshold_backward.default)
hardtanh_backward = _linear_kernel(aten.hardtanh_backward.default)
leaky_relu_backward = _linear_kernel(aten.leaky_relu_backward.default)
hardsigmoid_backward = _linear_kernel(aten.hardsigmoid_backward.default)
hardshrink_backward = _linear_kernel(aten.hardshrink_backward.default)
softshrink_backward = _linear_kernel(aten.softshrink_backward.default)
rrelu_backward = _linear_kernel(aten.rrelu_with_noise_backward.default)


@rule(aten.sigmoid_backward.default, formula="ḡ = ȳ · s (1 - s), s̄ = ȳ · g (1 - 2 s)")
def sigmoid_backward(adjoint, y, g, s):
    return aten.sigmoid_backward(adjoint, conj(s)), conj(adjoint) * g * (1 - 2 * conj(s))


@rule(aten.tanh_backward.default, formula="ḡ = ȳ · (1 - t²), t̄ = -2 ȳ · g t")
def tanh_backward(adjoint, y, g, t):
    return aten.tanh_backward(adjoint, conj(t)), conj(adjoint) * (-2 * conj(t) * g)


@rule(aten.log_sigmoid_backward.default, formula="ḡ = ȳ · σ(-x), x̄ = -ȳ · g σ(x) (1 - σ(x))")
def log_sigmoid_backward(adjoint, y, g, x, buffer):
    first = aten.log_sigmoid_backward(adjoint, x, buffer)
    s = x.sigmoid()
    return first, adjoint * g * (s - 1) * s


@rule(aten.softplus_backward.default, formula="ḡ = ȳ · σ(βx), x̄ = ȳ · g β σ(βx) (1 - σ(βx)) · [βx < threshold]")
def softplus_backward(adjoint, y, g, x, beta, threshold):
    first = aten.softplus_backward(adjoint, x, beta, threshold)
    s = (x * beta).sigmoid()
    return first, aten.sigmoid_backward(adjoint * g, s) * (x * beta < threshold) * beta


@rule(aten.gelu_backward.default, formula="ḡ = ȳ · f'(x), x̄ = ȳ · g f''(x); f'' = (2 - x²) φ(x) without 'tanh'")
def gelu_backward(adjoint, y, g, x, approximate="none"):
    second = (2 - x * x) * _normal_density(x) if approximate == "none" else _tanh_gelu_second(x)
    return aten.gelu_backward(adjoint, x, approximate=approximate), adjoint * g * second


def _normal_density(x):
    return (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)


def _tanh_gelu_second(x):
    """f = ½ x (1 + t), t = tanh u, u = k (x + c x³), so f'' = (1 - t²) (u' + ½ x (u'' - 2 t u'²))."""
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = (k * (x + c * x * x * x)).tanh()
    first, second = k * (1 + 3 * c * x * x), 6 * k * c * x
    return (1 - t * t) * (first + 0.5 * x * (second - 2 * t * first * first))


@rule(aten.silu_backward.default, formula="ḡ = ȳ · f'(x), x̄ = ȳ · g σ(1 - σ) (2 + x (1 - 2σ))")
def silu_backward(adjoint, y, g, x):
    s = x.sigmoid()
    return aten.silu_backward(adjoint, x), adjoint * g * s * (1 - s) * (2 + x * (1 - 2 * s))


@rule(
    aten.mish_backward.default,
    formula="ḡ = ȳ · f'(x), x̄ = ȳ · g (1 - t²) σ (2 + x (1 - σ) - 2 x σ t), t = tanh(softplus x)",
)
def mish_backward(adjoint, y, g, x):
    s, t = x.sigmoid(), torch.nn.functional.softplus(x).tanh()
    second = (1 - t * t) * s * (2 + x * (1 - s) - 2 * x * s * t)
    return aten.mish_backward(adjoint, x), adjoint * g * second


@rule(aten.elu_backward.default, formula="ḡ = ȳ · f'(x), x̄ = ȳ · k kernel(g) · [x < 0]")
def elu_backward(adjoint, y, g, alpha, scale, input_scale, is_result, x):
    to_adjoint = aten.elu_backward(adjoint, alpha, scale, input_scale, is_result, x)
    product = adjoint * g * input_scale
    if is_result:  # the kernel is then linear in the result
        return to_adjoint, None, None, None, None, product * (x < 0)
    second = aten.elu_backward(product, alpha, scale, input_scale, False, x) * (x < 0)
    return to_adjoint, None, None, None, None, second


@rule(aten._prelu_kernel_backward.default, formula="(x̄, w̄) = (g · (1 or w), g · min(x, 0)), linear in g, x and w")
def prelu_backward(adjoint, y, g, x, w):
    to_x, to_w = adjoint
    positive = x >= 0
    zero = torch.zeros_like(g)
    to_g, back_x, back_w = zero, zero, zero
    if to_x is not None:
        to_g = to_g + torch.where(positive, to_x, to_x * w)
        back_w = (g * to_x).masked_fill(positive, 0)
    if to_w is not None:
        to_g = to_g + (to_w * x).masked_fill(positive, 0)
        back_x = (g * to_w).masked_fill(positive, 0)
    return to_g, back_x, back_w


@rule(aten.hardswish_backward.default, formula="ḡ = ȳ · f'(x), x̄ = ȳ · g / 3 · [-3 < x < 3]")
def hardswish_backward(adjoint, y, g, x):
    return aten.hardswish_backward(adjoint, x), (adjoint * g / 3).masked_fill(~((x > -3) & (x < 3)), 0)


@rule(aten.glu_backward.default, formula="of [g σ(b), g a σ'(b)]: ḡ = p σ + q a σ', ā = q g σ', b̄ = p g σ' + q g a σ''")
def glu_backward(adjoint, y, g, x, dim):
    p, q = adjoint.chunk(2, dim)
    a, b = x.chunk(2, dim)
    s = b.sigmoid()
    first = s * (1 - s)
    to_b = p * g * first + q * g * a * first * (1 - 2 * s)
    return p * s + q * a * first, torch.cat([q * g * first, to_b], dim)


@rule(aten.logit_backward.default, formula="ḡ = ȳ / (x (1 - x)), x̄ = ȳ · g (2 x - 1) / (x (1 - x))²")
def logit_backward(adjoint, y, g, x, eps=None):
    product = x * (1 - x)
    second = adjoint * g * (2 * x - 1) / (product * product)
    low, high, outside = (0.0, 1.0, float("nan")) if eps is None else (eps, 1 - eps, 0.0)
    return aten.logit_backward(adjoint, x, eps), second.masked_fill(~((x >= low) & (x <= high)), outside)
