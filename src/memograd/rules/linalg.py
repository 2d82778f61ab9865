"""Linear solvers, inverses, determinants and triangular factorizations.

The derivations all have one pattern. Differentiate the equation that defines the result, solve for dY, and move
everything but dA to the other side of the inner product. For X = A⁻¹ B:  dX = A⁻¹ (dB - dA X), so

    ⟨X̄, dX⟩ = ⟨A⁻ᴴ X̄, dB⟩ - ⟨A⁻ᴴ X̄ Xᴴ, dA⟩,    B̄ = A⁻ᴴ X̄,   Ā = -B̄ Xᴴ
"""

from typing import Any

import torch

from memograd.errors import NotDifferentiableError
from memograd.rules.registry import expand, rule

aten = torch.ops.aten


@rule(aten.linalg_inv_ex.default, formula="Ā = -Yᴴ Ȳ Yᴴ")
def inv(adjoint, y, a, check_errors=False):
    inverse = y[0].mH
    return -(inverse @ adjoint[0] @ inverse)


@rule(aten._linalg_det.default, formula="Ā = ȳ conj(y) A⁻ᴴ")
def det(adjoint, y, a):
    weight = adjoint[0] * _conj(y[0])
    return torch.linalg.solve_ex(a.mH, _scaled_identity(a, weight))[0]


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
    a_bar = lu_factor(adjoint=[lu_bar], y=[lu, pivots], a=a) if lu_bar is not None else None
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


@rule(aten.linalg_cholesky_ex.default, formula="A = L Lᴴ: Ā = sym(L⁻ᴴ Φ(Lᴴ L̄) L⁻¹), Φ: tril, half the diagonal")
def cholesky_ex(adjoint, y, a, upper=False, check_errors=False):
    return _cholesky(adjoint[0], y[0], upper)


@rule(aten.cholesky.default, formula="A = L Lᴴ: Ā = sym(L⁻ᴴ Φ(Lᴴ L̄) L⁻¹), Φ: tril, half the diagonal")
def cholesky(adjoint, y, a, upper=False):
    return _cholesky(adjoint, y, upper)


def _cholesky(adjoint, y, upper):
    l, l_bar = (y.mH, adjoint.mH) if upper else (y, adjoint)
    lower = _halved_diagonal((l.mH @ l_bar).tril())
    inner = torch.linalg.solve_triangular(l.mH, lower, upper=True)
    a_bar = torch.linalg.solve_triangular(l, inner, upper=False, left=False)
    return (a_bar + a_bar.mH) / 2


@expand(aten.cholesky_solve.default, formula="(L Lᴴ)⁻¹ B")
def cholesky_solve(b, l, upper=False):
    l = l.mH if upper else l
    return torch.linalg.solve_triangular(l.mH, torch.linalg.solve_triangular(l, b, upper=False), upper=True)


@expand(aten.cholesky_inverse.default, formula="(L Lᴴ)⁻¹")
def cholesky_inverse(l, upper=False):
    identity = torch.eye(l.shape[-1], dtype=l.dtype, device=l.device).expand(l.shape)
    return cholesky_solve(identity, l, upper)


# -- LU ----------------------------------------------------------------------------------------------------------------


@rule(aten.linalg_lu_factor_ex.default, formula="A = P L U: Ā = P L⁻ᴴ [tril₋₁(Lᴴ L̄) + triu(Ū Uᴴ)] U⁻ᴴ")
def lu_factor(adjoint, y, a, pivot=True, check_errors=False):
    p, l, u = aten.lu_unpack(y[0], y[1])
    return _lu(p, l, u, adjoint[0], adjoint[0])


@rule(aten.linalg_lu.default, formula="A = P L U: Ā = P L⁻ᴴ [tril₋₁(Lᴴ L̄) + triu(Ū Uᴴ)] U⁻ᴴ")
def lu(adjoint, y, a, pivot=True):
    p, l, u = y
    return _lu(p, l, u, adjoint[1], adjoint[2])


def _lu(p, l, u, l_bar, u_bar):
    if l.shape[-2] != u.shape[-1]:
        raise NotDifferentiableError("the LU factorization of a matrix that is not square has no rule")
    middle = None
    if l_bar is not None:
        middle = (l.mH @ l_bar.tril(-1)).tril(-1)
    if u_bar is not None:
        upper = (u_bar.triu() @ u.mH).triu()
        middle = upper if middle is None else middle + upper
    left = torch.linalg.solve_triangular(l.mH, middle, upper=True, unitriangular=True)
    return p @ torch.linalg.solve_triangular(u.mH, left, upper=False, left=False)


@rule(aten.lu_unpack.default, formula="the adjoint of the packed matrix: tril₋₁(L̄) + triu(Ū)")
def lu_unpack(adjoint, y, packed, pivots, unpack_data=True, unpack_pivots=True):
    if packed.shape[-2] != packed.shape[-1]:
        raise NotDifferentiableError("the LU factorization of a matrix that is not square has no rule")
    lower = None if adjoint[1] is None else adjoint[1].tril(-1)
    upper = None if adjoint[2] is None else adjoint[2].triu()
    return upper if lower is None else lower if upper is None else lower + upper


# A = P L U solved with its factors: Ā as for ``solve``, then dA = P (dL U + L dU) gives L̄ = Pᵀ Ā Uᴴ, Ū = Lᴴ Pᵀ Ā.
@rule(aten.linalg_lu_solve.default, formula="B̄ = A⁻ᴴ X̄, Ā = -B̄ Xᴴ, L̄ = tril₋₁(Pᵀ Ā Uᴴ), Ū = triu(Lᴴ Pᵀ Ā)")
def lu_solve(x_bar, y, packed, pivots, b, left=True, adjoint=False):  # ATen calls solving with Aᴴ ``adjoint``
    p, l, u = aten.lu_unpack(packed, pivots)
    b_bar = aten.linalg_lu_solve(packed, pivots, x_bar, left=left, adjoint=not adjoint)
    a_bar = -(b_bar @ y.mH) if left else -(y.mH @ b_bar)
    if adjoint:
        a_bar = a_bar.mH
    permuted = p.mT @ a_bar
    return (permuted @ u.mH).tril(-1) + (l.mH @ permuted).triu(), None, b_bar


# -- helpers -----------------------------------------------------------------------------------------------------------


def _conj(x):
    return x.conj_physical() if x.is_complex() else x


def _scaled_identity(a, weight):
    """``weight`` on the diagonal of matrices like ``a``."""
    return torch.diag_embed(weight.unsqueeze(-1).expand(a.shape[:-1])).to(a.dtype)


def _halved_diagonal(x):
    return x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)) / 2
