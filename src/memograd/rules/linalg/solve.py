"""Linear solvers, inverses, determinants and Cholesky factorizations.

The derivations all have one pattern. Differentiate the equation that defines the result, solve for dY, and move
everything but dA to the other side of the inner product. For X = A⁻¹ B:  dX = A⁻¹ (dB - dA X), so

    ⟨X̄, dX⟩ = ⟨A⁻ᴴ X̄, dB⟩ - ⟨A⁻ᴴ X̄ Xᴴ, dA⟩,    B̄ = A⁻ᴴ X̄,   Ā = -B̄ Xᴴ
"""

from typing import Any

import torch

from memograd.rules.calculus import conj
from memograd.rules.linalg.lu import through_packed
from memograd.rules.reduce.sums_and_norms import product_of_others
from memograd.rules.registry import expand, rule

aten = torch.ops.aten


@rule(aten.linalg_inv_ex.default, formula="Ā = -Yᴴ Ȳ Yᴴ")
def inv(adjoint, y, a, check_errors=False):
    inverse = y[0].mH
    return -(inverse @ adjoint[0] @ inverse)


@rule(aten._linalg_det.default, formula="Ā = ȳ conj(y) A⁻ᴴ; where y = 0 those of the cofactors, ȳ adj(A)ᴴ")
def det(adjoint, y, a):
    """A singular matrix has no inverse, but cofactors: with A = U Σ Vᴴ they are conj(|U| |Vᴴ|) U adj(Σ) Vᴴ.
    What a matrix does not need is computed for another one, so that no NaN of it gets into higher derivatives."""
    n, bar, singular = a.shape[-1], adjoint[0][..., None, None], (y[0] == 0)[..., None, None]
    simple = torch.arange(1, n + 1, device=a.device).to(a.dtype).diag()
    inverted = torch.where(singular, simple, a)
    regular = torch.linalg.solve_ex(inverted.mH, _scaled_identity(a, adjoint[0] * conj(y[0])))[0]
    u, s, vh = torch.linalg.svd(torch.where(singular, a, simple))
    sign = conj(torch.linalg.det(u) * torch.linalg.det(vh))[..., None, None]
    cofactors = sign * (u * product_of_others(s, -1).unsqueeze(-2)) @ vh
    return torch.where(singular, bar * cofactors, regular)


@rule(aten._linalg_slogdet.default, formula="Ā = ȳ A⁻ᴴ; complex: (ȳ - i Im(s̄* s)) A⁻ᴴ with the sign s")
def slogdet(adjoint, y, a):
    sign_bar, log_bar = adjoint[:2]
    if not a.is_complex():
        if log_bar is None:
            return None  # the sign is piecewise constant
        return torch.linalg.solve_ex(a.mH, _scaled_identity(a, log_bar))[0]
    angle: Any = None if sign_bar is None else -(sign_bar.conj() * y[0]).imag
    real = torch.zeros_like(angle) if log_bar is None else log_bar
    weight = torch.complex(real, torch.zeros_like(real) if angle is None else angle)
    return torch.linalg.solve_ex(a.mH, _scaled_identity(a, weight))[0]


@rule(aten._linalg_solve_ex.default, formula="A X = B: B̄ = A⁻ᴴ X̄, Ā = -B̄ Xᴴ")
def solve(adjoint, y, a, b, left=True, check_errors=False):
    x_bar, lu_bar = adjoint[:2]
    x, lu, pivots, _ = y
    a_bar = None if lu_bar is None else through_packed(lu_bar, lu, pivots)
    if x_bar is None:
        return a_bar
    vector = b.dim() == 1 or (b.dim() + 1 == a.dim() and b.shape == a.shape[:-1])
    if vector:
        x_bar, x = x_bar.unsqueeze(-1), x.unsqueeze(-1)
    b_bar = aten.linalg_lu_solve(lu, pivots, x_bar, left=left, adjoint=True)
    through_x = -(b_bar @ x.mH) if left else -(x.mH @ b_bar)
    a_bar = through_x if a_bar is None else a_bar + through_x
    return a_bar, b_bar.squeeze(-1) if vector else b_bar


@rule(aten.linalg_solve_triangular.default, formula="A X = B: B̄ = A⁻ᴴ X̄, Ā = -B̄ Xᴴ, in the triangle")
def solve_triangular(adjoint, y, a, b, upper, left=True, unitriangular=False):
    b_bar = torch.linalg.solve_triangular(a.mH, adjoint, upper=not upper, left=left, unitriangular=unitriangular)
    a_bar = -(b_bar @ y.mH) if left else -(y.mH @ b_bar)
    diagonal = 1 if unitriangular else 0
    return a_bar.triu(diagonal) if upper else a_bar.tril(-diagonal), b_bar


@expand(aten.triangular_solve.default, formula="solve_triangular")
def triangular_solve(b, a, upper=True, transpose=False, unitriangular=False):
    matrix, above = (a.mT, not upper) if transpose else (a, upper)
    return torch.linalg.solve_triangular(matrix, b, upper=above, unitriangular=unitriangular), a.clone()


# -- Cholesky ----------------------------------------------------------------------------------------------------------


@rule(aten.linalg_cholesky_ex.default, formula="A = L Lᴴ: Ā = ½ L⁻ᴴ (P + tril₋₁(P)ᴴ) L⁻¹, P = tril(Lᴴ L̄)")
def cholesky_ex(adjoint, y, a, upper=False, check_errors=False):
    return _cholesky(adjoint[0], y[0], upper)


@rule(aten.cholesky.default, formula="A = L Lᴴ: Ā = ½ L⁻ᴴ (P + tril₋₁(P)ᴴ) L⁻¹, P = tril(Lᴴ L̄)")
def cholesky(adjoint, y, a, upper=False):
    return _cholesky(adjoint, y, upper)


def _cholesky(adjoint, y, upper):
    l, l_bar = (y.mH, adjoint.mH) if upper else (y, adjoint)
    lower = (l.mH @ l_bar).tril()
    middle = (lower + lower.tril(-1).mH) / 2
    inner = torch.linalg.solve_triangular(l.mH, middle, upper=True)
    return torch.linalg.solve_triangular(l, inner, upper=False, left=False)


# Autograd's convention for the next two: L is an argument like any other matrix, and its gradient is full, although
# only one triangle of it is read. In that triangle the formulas are the derivative.


@rule(aten.cholesky_solve.default, formula="X = (L Lᴴ)⁻¹ B: B̄ = (L Lᴴ)⁻¹ X̄, L̄ = -(B̄ Xᴴ + X B̄ᴴ) L")
def cholesky_solve(adjoint, y, b, l, upper=False):
    b_bar = aten.cholesky_solve(adjoint, l, upper)
    return b_bar, -_times_factor(_hermitian(b_bar @ y.mH), l, upper)


@rule(aten.cholesky_inverse.default, formula="Y = (L Lᴴ)⁻¹: L̄ = -Y (Ȳ + Ȳᴴ) Y L")
def cholesky_inverse(adjoint, y, l, upper=False):
    return -_times_factor(y @ _hermitian(adjoint) @ y, l, upper)


def _times_factor(s, l, upper):
    """S L for a Hermitian S; for the upper factor Lᴴ, its Lᴴ S."""
    return l @ s if upper else s @ l


# -- helpers -----------------------------------------------------------------------------------------------------------


def _scaled_identity(a, weight):
    """``weight`` on the diagonal of matrices like ``a``."""
    return torch.diag_embed(weight.unsqueeze(-1).expand(a.shape[:-1])).to(a.dtype)


def _hermitian(x):
    return x + x.mH
