"""Convolutions.

A convolution is linear in its input and in its weight, so its adjoints are convolutions again: of ȳ with the weight
(transposed), and of ȳ with the input. ATen has both in one kernel, ``convolution_backward``. That kernel is linear in
each of ȳ, x and w too; its own rule needs nothing but convolution and itself.
"""

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten


@rule(aten.convolution.default, formula="x̄ = ȳ ⋆ᵀ w, w̄ = ȳ ⋆ x, b̄ = Σ ȳ", latex=r"\bar x = \bar y \star^\top w")
def convolution(adjoint, y, x, w, bias, stride, padding, dilation, transposed, output_padding, groups):
    sizes = None if bias is None else list(bias.shape)
    mask = [True, True, bias is not None]
    return aten.convolution_backward(
        adjoint, x, w, sizes, stride, padding, dilation, transposed, output_padding, groups, mask
    )


@rule(
    aten.convolution_backward.default,
    formula="(x̄, w̄, b̄) = convolution_backward(g, x, w) with adjoints (u, v, c): "
    "ḡ = u ⋆ w + x ⋆ v + c, x̄ = g ⋆ᵀ v, w̄ = g ⋆ u",
)
def convolution_backward(
    adjoint, y, g, x, w, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
):
    u, v, c = adjoint
    how = (stride, padding, dilation, transposed, output_padding, groups)
    terms = []
    g_for_x = g_for_w = None
    if u is not None:
        terms.append(aten.convolution(u, w, None, *how))
        g_for_w = aten.convolution_backward(g, u, w, None, *how, [False, True, False])[1]
    if v is not None:
        terms.append(aten.convolution(x, v, None, *how))
        g_for_x = aten.convolution_backward(g, x, v, None, *how, [True, False, False])[0]
    if c is not None:
        terms.append(c.reshape(1, -1, *[1] * (g.dim() - 2)).expand(g.shape))
    g_bar = terms[0]
    for term in terms[1:]:
        g_bar = g_bar + term
    return g_bar, g_for_x, g_for_w


@expand(aten.conv_tbc.default, formula="conv1d, with the dimensions as time, batch, channel")
def conv_tbc(x, w, bias, pad=0):
    y = torch.nn.functional.conv1d(x.permute(1, 2, 0), w.permute(2, 1, 0), bias, padding=pad)
    return y.permute(2, 0, 1).contiguous()


@rule(aten.im2col.default, formula="x̄ = col2im(ȳ)")
def im2col(adjoint, y, x, kernel_size, dilation, padding, stride):
    return aten.col2im(adjoint, x.shape[-2:], kernel_size, dilation, padding, stride)


@rule(aten.col2im.default, formula="x̄ = im2col(ȳ)")
def col2im(adjoint, y, x, output_size, kernel_size, dilation, padding, stride):
    return aten.im2col(adjoint, kernel_size, dilation, padding, stride)


@rule(aten.pixel_shuffle.default, formula="x̄ = pixel_unshuffle(ȳ)")
def pixel_shuffle(adjoint, y, x, upscale_factor):
    return aten.pixel_unshuffle(adjoint, upscale_factor)


@rule(aten.pixel_unshuffle.default, formula="x̄ = pixel_shuffle(ȳ)")
def pixel_unshuffle(adjoint, y, x, downscale_factor):
    return aten.pixel_shuffle(adjoint, downscale_factor)
