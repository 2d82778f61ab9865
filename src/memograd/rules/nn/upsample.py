"""Interpolation. Each resize is linear: its adjoint is the ``_backward`` kernel, and the adjoint of that the resize."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten

RESIZES = (
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "_upsample_lanczos2d_aa",
)


def _enter(name):
    forward, backward = getattr(aten, name).default, getattr(aten, f"{name}_backward").default

    @rule(forward, formula="x̄ = resizeᵀ(ȳ): each ȳ goes back to the elements it was interpolated from")
    def resize(adjoint, y, x, output_size, *how):
        return backward(adjoint, output_size, x.shape, *how)

    @rule(backward, formula="ḡ = resize(r̄)")
    def resize_backward(adjoint, y, g, output_size, input_size, *how):
        return forward(adjoint, output_size, *how)


for _name in RESIZES:
    if hasattr(aten, _name):
        _enter(_name)


@rule(aten.affine_grid_generator.default, formula="y = [p, 1] θᵀ at every grid point p: θ̄ = Σ ȳᵀ [p, 1]")
def affine_grid_generator(adjoint, y, theta, size, align_corners):
    identity = torch.eye(*theta.shape[1:], dtype=theta.dtype, device=theta.device).unsqueeze(0)
    points = aten.affine_grid_generator(identity, [1, *size[1:]], align_corners).flatten(0, -2)
    points = torch.cat([points, torch.ones_like(points[:, :1])], -1)
    return adjoint.flatten(1, -2).mT @ points
