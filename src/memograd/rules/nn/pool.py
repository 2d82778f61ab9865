"""Pooling.

Average pooling is linear: its adjoint spreads ȳ evenly over each window, and the adjoint of that is pooling again.
Max pooling picks one element of each window and remembers which: its adjoint scatters ȳ to the picks, and the adjoint
of that gathers from them. A tie goes to the element that the forward kernel picked.

The kernels of both take ``x`` too, whose values they do not use: autograd has zeros for it there, which an optimizer
tells from no gradient, and so have we.
"""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.max_pool2d_with_indices.default, formula="x̄ = Σ ȳ at the largest element of each window")
def max_pool2d(adjoint, y, x, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
    return aten.max_pool2d_with_indices_backward(
        adjoint[0], x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode, y[1]
    )


@rule(aten.max_pool3d_with_indices.default, formula="x̄ = Σ ȳ at the largest element of each window")
def max_pool3d(adjoint, y, x, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
    return aten.max_pool3d_with_indices_backward(
        adjoint[0], x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode, y[1]
    )


@rule(aten.max_pool2d_with_indices_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def max_pool2d_backward(adjoint, y, g, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    return gather(adjoint, indices, 2), torch.zeros_like(x)


@rule(aten.max_pool3d_with_indices_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def max_pool3d_backward(adjoint, y, g, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    return gather(adjoint, indices, 3), torch.zeros_like(x)


@rule(aten.adaptive_max_pool2d.default, formula="x̄ = Σ ȳ at the largest element of each window")
def adaptive_max_pool2d(adjoint, y, x, output_size):
    return aten.adaptive_max_pool2d_backward(adjoint[0], x, y[1])


@rule(aten.adaptive_max_pool3d.default, formula="x̄ = Σ ȳ at the largest element of each window")
def adaptive_max_pool3d(adjoint, y, x, output_size):
    return aten.adaptive_max_pool3d_backward(adjoint[0], x, y[1])


@rule(aten.adaptive_max_pool2d_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def adaptive_max_pool2d_backward(adjoint, y, g, x, indices):
    return gather(adjoint, indices, 2), torch.zeros_like(x)


@rule(aten.adaptive_max_pool3d_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def adaptive_max_pool3d_backward(adjoint, y, g, x, indices):
    return gather(adjoint, indices, 3), torch.zeros_like(x)


@rule(aten.fractional_max_pool2d.default, formula="x̄ = Σ ȳ at the largest element of each window")
def fractional_max_pool2d(adjoint, y, x, kernel_size, output_size, random_samples):
    return aten.fractional_max_pool2d_backward(adjoint[0], x, kernel_size, output_size, y[1])


@rule(aten.fractional_max_pool3d.default, formula="x̄ = Σ ȳ at the largest element of each window")
def fractional_max_pool3d(adjoint, y, x, kernel_size, output_size, random_samples):
    return aten.fractional_max_pool3d_backward(adjoint[0], x, kernel_size, output_size, y[1])


@rule(aten.fractional_max_pool2d_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def fractional_max_pool2d_backward(adjoint, y, g, x, kernel_size, output_size, indices):
    return gather(adjoint, indices, 2), torch.zeros_like(x)


@rule(aten.fractional_max_pool3d_backward.default, formula="ḡ = ȳ gathered at the picks, x̄ = 0")
def fractional_max_pool3d_backward(adjoint, y, g, x, kernel_size, output_size, indices):
    return gather(adjoint, indices, 3), torch.zeros_like(x)


@rule(aten.max_unpool2d.default, formula="x̄ = ȳ gathered at the picks")
def max_unpool2d(adjoint, y, x, indices, output_size):
    return gather(adjoint, indices, 2)


@rule(aten.max_unpool3d.default, formula="x̄ = ȳ gathered at the picks")
def max_unpool3d(adjoint, y, x, indices, output_size, stride, padding):
    return gather(adjoint, indices, 3)


@rule(aten.avg_pool2d.default, formula="x̄ = Σ ȳ / (size of the window) over the windows of x")
def avg_pool2d(
    adjoint, y, x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return aten.avg_pool2d_backward(
        adjoint, x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, divisor_override
    )


@rule(aten.avg_pool3d.default, formula="x̄ = Σ ȳ / (size of the window) over the windows of x")
def avg_pool3d(
    adjoint, y, x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return aten.avg_pool3d_backward(
        adjoint, x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, divisor_override
    )


@rule(aten.avg_pool2d_backward.default, formula="ḡ = avg_pool2d(ȳ), x̄ = 0")
def avg_pool2d_backward(adjoint, y, g, x, *how):
    return aten.avg_pool2d(adjoint, *how), torch.zeros_like(x)


@rule(aten.avg_pool3d_backward.default, formula="ḡ = avg_pool3d(ȳ), x̄ = 0")
def avg_pool3d_backward(adjoint, y, g, x, *how):
    return aten.avg_pool3d(adjoint, *how), torch.zeros_like(x)


@rule(aten._adaptive_avg_pool2d.default, formula="x̄ = Σ ȳ / (size of the window) over the windows of x")
def adaptive_avg_pool2d(adjoint, y, x, output_size):
    return aten._adaptive_avg_pool2d_backward(adjoint, x)


@rule(aten._adaptive_avg_pool3d.default, formula="x̄ = Σ ȳ / (size of the window) over the windows of x")
def adaptive_avg_pool3d(adjoint, y, x, output_size):
    return aten._adaptive_avg_pool3d_backward(adjoint, x)


@rule(aten._adaptive_avg_pool2d_backward.default, formula="ḡ = adaptive_avg_pool2d(ȳ), x̄ = 0")
def adaptive_avg_pool2d_backward(adjoint, y, g, x):
    return aten._adaptive_avg_pool2d(adjoint, g.shape[-2:]), torch.zeros_like(x)


@rule(aten._adaptive_avg_pool3d_backward.default, formula="ḡ = adaptive_avg_pool3d(ȳ), x̄ = 0")
def adaptive_avg_pool3d_backward(adjoint, y, g, x):
    return aten._adaptive_avg_pool3d(adjoint, g.shape[-3:]), torch.zeros_like(x)


def gather(x, indices, dims):
    """The elements of ``x`` at ``indices``, which count through the last ``dims`` dimensions taken as one."""
    return x.flatten(-dims).gather(-1, indices.flatten(-dims)).view(indices.shape)
