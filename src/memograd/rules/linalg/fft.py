"""Fourier transforms. Each is linear; the adjoint of the transform is the transform in the other direction."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten._fft_c2c.default, formula="x̄ = F⁻¹(ȳ), with the same normalization")
def fft_c2c(adjoint, y, x, dim, normalization, forward):
    return aten._fft_c2c(adjoint, dim, normalization, not forward)


@rule(aten._fft_r2c.default, formula="x̄ = Re F⁻¹(ȳ), ȳ being zero at the frequencies left out")
def fft_r2c(adjoint, y, x, dim, normalization, onesided):
    last = dim[-1]
    if onesided:
        missing = list(adjoint.shape)
        missing[last] = x.shape[last] - adjoint.shape[last]
        zeros = torch.zeros(missing, dtype=adjoint.dtype, device=adjoint.device)
        adjoint = torch.cat([adjoint, zeros], last)
    return aten._fft_c2c(adjoint, dim, normalization, False).real


@rule(aten._fft_c2r.default, formula="x̄ = F(ȳ), twice where a frequency also stands for its mirror image")
def fft_c2r(adjoint, y, x, dim, normalization, last_dim_size):
    last = dim[-1]
    spectrum = aten._fft_r2c(adjoint, dim, normalization, True)
    length = spectrum.shape[last]
    mirrored = adjoint.shape[last] - length  # frequencies 1 .. mirrored
    if mirrored <= 0:
        return spectrum
    parts = spectrum.split([1, mirrored, length - 1 - mirrored], last)
    return torch.cat([parts[0], parts[1] * 2, parts[2]], last)
