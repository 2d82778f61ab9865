"""LU factorizations, square, wide and tall: A = P L U with L of unit diagonal.

The identity behind all of them: with M = L₁⁻¹ Pᵀ dA₁ U₁⁻¹, where 1 marks the leading square blocks,

    dL₁ = L₁ tril₋₁(M)        dU₁ = triu(M) U₁

because L₁⁻¹ dL₁ is strictly lower and dU₁ U₁⁻¹ upper triangular, and they add up to M. What lies beyond the square
follows from Pᵀ dA = dL U + L dU: in a wide matrix dU₂ = L₁⁻¹ Pᵀ dA₂ - tril₋₁(M) U₂, in a tall one
dL₂ = Pᵀ dA₂ U₁⁻¹ - L₂ triu(M). The pivots P are constant.
"""

from typing import Any

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten

FORMULA = (
    "A = P L U: Ā = P L⁻ᴴ [tril₋₁(Lᴴ L̄) + triu(Ū Uᴴ)] U⁻ᴴ; "
    "wide: [tril₋₁(Lᴴ L̄ - Ū₂ U₂ᴴ) + …], Ā₂ = P L⁻ᴴ Ū₂; tall: [… + triu(Ū Uᴴ - L₂ᴴ L̄₂)], Pᵀ Ā₂ = L̄₂ U⁻ᴴ"
)


@rule(aten.linalg_lu_factor_ex.default, formula=FORMULA)
def lu_factor(adjoint, y, a, pivot=True, check_errors=False):
    return through_packed(adjoint[0], y[0], y[1])


@rule(aten.linalg_lu.default, formula=FORMULA)
def lu(adjoint, y, a, pivot=True):
    p, l, u = y
    return _lu(p if pivot else None, l, u, adjoint[1], adjoint[2])


def through_packed(packed_bar, packed, pivots):
    """Ā from the adjoint of the factors in one matrix, L below the diagonal of U."""
    p, l, u = aten.lu_unpack(packed, pivots)
    k = l.shape[-1]
    return _lu(p, l, u, packed_bar[..., :, :k], packed_bar[..., :k, :])


def _lu(p, l, u, l_bar, u_bar):
    """Ā; either adjoint may be None, and both when only the permutation is used. Without pivoting ``p`` is None."""
    if l_bar is None and u_bar is None:
        return None
    k = l.shape[-1]
    rows, columns = l.shape[-2], u.shape[-1]
    l1, u1 = l[..., :k, :], u[..., :, :k]
    below = None if l_bar is None or rows == k else l_bar[..., k:, :]
    right = None if u_bar is None or columns == k else u_bar.triu()[..., :, k:]
    middle = _plus(
        None if l_bar is None else (l1.mH @ l_bar[..., :k, :].tril(-1)).tril(-1),
        None if u_bar is None else (u_bar[..., :, :k].triu() @ u1.mH).triu(),
    )
    if right is not None:
        middle = _plus(middle, -(right @ u[..., :, k:].mH).tril(-1))
    if below is not None:
        middle = _plus(middle, -(l[..., k:, :].mH @ below).triu())
    a_bar = _times_inverse(u1, _inverse_times(l1, middle))
    if columns > k:
        other = torch.zeros_like(u[..., :, k:]) if right is None else _inverse_times(l1, right)
        a_bar = torch.cat([a_bar, other], -1)
    if rows > k:
        other = torch.zeros_like(l[..., k:, :]) if below is None else _times_inverse(u1, below)
        a_bar = torch.cat([a_bar, other], -2)
    return a_bar if p is None else p @ a_bar


def _inverse_times(l, x):
    """L⁻ᴴ X."""
    return torch.linalg.solve_triangular(l.mH, x, upper=True, unitriangular=True)


def _times_inverse(u, x):
    """X U⁻ᴴ."""
    return torch.linalg.solve_triangular(u.mH, x, upper=False, left=False)


@rule(aten.lu_unpack.default, formula="the adjoint of the packed matrix: tril₋₁(L̄) + triu(Ū), each in its place")
def lu_unpack(adjoint, y, packed, pivots, unpack_data=True, unpack_pivots=True):
    rows, columns = packed.shape[-2:]
    lower: Any = None if adjoint[1] is None else adjoint[1].tril(-1)
    upper: Any = None if adjoint[2] is None else adjoint[2].triu()
    if lower is not None and columns > rows:
        lower = torch.nn.functional.pad(lower, (0, columns - rows))
    if upper is not None and rows > columns:
        upper = torch.nn.functional.pad(upper, (0, 0, 0, rows - columns))
    return _plus(lower, upper)


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


def _plus(a, b):
    """Sum of two contributions, either of which may be None."""
    if a is None or b is None:
        return b if a is None else a
    return a + b
