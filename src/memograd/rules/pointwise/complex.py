"""Complex numbers: building them, taking them apart, conjugation. Gradients are conjugate Wirtinger derivatives."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.view_as_real.default, aten.view_as_real_copy.default, formula="x̄ = ȳ₀ + i ȳ₁")
def view_as_real(adjoint, y, x):
    pairs = adjoint.contiguous()
    return torch.view_as_complex(pairs.clone() if pairs.storage_offset() % 2 else pairs)


@rule(aten.view_as_complex.default, aten.view_as_complex_copy.default, formula="x̄ = [Re ȳ, Im ȳ]")
def view_as_complex(adjoint, y, x):
    return torch.view_as_real(adjoint.contiguous().resolve_conj())


@rule(
    aten._conj.default,
    aten._conj_copy.default,
    aten._conj_physical.default,
    aten.conj_physical.default,
    formula="x̄ = conj ȳ",
)
def conjugate(adjoint, y, x):
    return adjoint.conj_physical()


@rule(aten.real.default, formula="x̄ = ȳ")
def real(adjoint, y, x):
    return adjoint


@rule(aten.imag.default, formula="x̄ = i ȳ")
def imag(adjoint, y, x):
    return torch.complex(torch.zeros_like(adjoint), adjoint)


@rule(aten.complex.default, formula="ā = Re ȳ, b̄ = Im ȳ for y = a + i b")
def complex_(adjoint, y, a, b):
    return adjoint.real, adjoint.imag


@rule(aten.polar.default, formula="r̄ = Re(conj ȳ · sgn y), φ̄ = Re(conj ȳ · i y)")
def polar(adjoint, y, r, phi):
    back = adjoint.conj_physical()
    return (back * y.sgn()).real, (back * (y * 1j)).real


@rule(aten.angle.default, formula="x̄ = ȳ · i x / |x|², 0 at x = 0; 0 for real x")
def angle(adjoint, y, x):
    if not x.is_complex():
        return torch.zeros_like(x)
    return adjoint * (x / x.abs().pow(2) * 1j).masked_fill(x == 0, 0)
