"""Orthogonal and spectral factorizations: QR, eigenvalues, singular values, pseudoinverse; the matrix exponential.

As in ``linalg``: differentiate the defining equation, solve for the factors' differentials. Products like Vᴴ dV are
antisymmetric there, which is where the denominators λⱼ - λᵢ come from: at equal eigenvalues the vectors are not
differentiable, and the adjoints are infinite, as in autograd.
"""

from typing import Any

import torch

from memograd.errors import NotDifferentiableError
from memograd.rules.calculus import conj
from memograd.rules.registry import expand, rule

aten = torch.ops.aten


@rule(aten.linalg_qr.default, formula="Ā = (Q̄ + Q herm(R̄ Rᴴ - Qᴴ Q̄)) R⁻ᴴ; herm: the upper triangle, mirrored")
def qr(adjoint, y, a, mode="reduced"):
    q, r = y
    rows, columns = a.shape[-2:]
    if mode == "r" or (mode == "complete" and rows > columns):
        raise NotDifferentiableError(
            f"QR with mode={mode!r} of a {rows} x {columns} matrix has no derivative; use 'reduced'"
        )
    q_bar, r_bar = adjoint
    if rows >= columns:
        return _qr_tall(q, r, q_bar, r_bar)
    # A = [X | Y], R = [U | Z]: X = Q U, and Z = Qᴴ Y
    u, right = r[..., :rows], a[..., rows:]
    if r_bar is None:
        return torch.cat([_qr_tall(q, u, q_bar, None), torch.zeros_like(right)], -1)
    u_bar, z_bar = r_bar[..., :rows], r_bar[..., rows:]
    from_z = right @ z_bar.mH
    q_total = from_z if q_bar is None else q_bar + from_z
    return torch.cat([_qr_tall(q, u, q_total, u_bar), q @ z_bar], -1)


def _qr_tall(q, r, q_bar, r_bar):
    m: Any = None  # one of the two adjoints is there
    if r_bar is not None:
        m = r_bar @ r.mH
    if q_bar is not None:
        inner = q.mH @ q_bar
        m = -inner if m is None else m - inner
    upper = m.triu()
    real_half = torch.diag_embed(_real_diagonal(upper)).to(upper.dtype)
    a_bar = q @ (upper + upper.triu(1).mH + real_half - torch.diag_embed(upper.diagonal(dim1=-2, dim2=-1)))
    if q_bar is not None:
        a_bar = a_bar + q_bar
    return torch.linalg.solve_triangular(r.mH, a_bar, upper=False, left=False)


@rule(aten._linalg_eigh.default, formula="Ā = sym(V (diag λ̄ + (Vᴴ V̄) / (λⱼ - λᵢ)) Vᴴ)")
def eigh(adjoint, y, a, uplo="L", compute_v=True):
    """Of all gradients of a function of Hermitian matrices the Hermitian one, as in autograd."""
    values_bar, v_bar = adjoint
    values, v = y
    middle = None if values_bar is None else torch.diag_embed(values_bar).to(v.dtype)
    if v_bar is not None:
        gaps = _gaps(values)
        rotated = (v.mH @ v_bar) / gaps
        rotated = rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))
        middle = rotated if middle is None else middle + rotated
    a_bar = v @ middle @ v.mH
    return (a_bar + a_bar.mH) / 2


@rule(aten.linalg_eig.default, formula="Ā = V⁻ᴴ (diag λ̄ + (Vᴴ V̄ - Vᴴ V Re diag(Vᴴ V̄)) / (λⱼ - λᵢ)*) Vᴴ")
def eig(adjoint, y, a):
    values_bar, v_bar = adjoint
    values, v = y
    middle = None if values_bar is None else torch.diag_embed(values_bar)
    if v_bar is not None:
        inner = v.mH @ v_bar
        # eigenvectors have norm 1: what would stretch them does not count
        rotated = (inner - (v.mH @ v) * _real_diagonal(inner).unsqueeze(-2)) / _gaps(values).conj()
        rotated = rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))
        middle = rotated if middle is None else middle + rotated
    a_bar = torch.linalg.solve_ex(v.mH, middle @ v.mH)[0]
    return a_bar if a.is_complex() else a_bar.real


@rule(aten._linalg_eigvals.default, formula="Ā = V⁻ᴴ diag λ̄ Vᴴ")
def eigvals(adjoint, y, a):
    v = aten.linalg_eig(a)[1]
    a_bar = torch.linalg.solve_ex(v.mH, adjoint.unsqueeze(-1) * v.mH)[0]
    return a_bar if a.is_complex() else a_bar.real


# dP = Uᴴ dA V splits into dS (its diagonal) and rotations of U and V (the rest); with E = sⱼ² - sᵢ², skew X = X - Xᴴ:
@rule(
    aten._linalg_svd.default,
    formula="Ā = U [(skew(Uᴴ Ū)/E) S + S (skew(Vᴴ V̄)/E) + diag S̄] Vᴴ + (1 - U Uᴴ) Ū S⁻¹ Vᴴ + U S⁻¹ V̄ᴴ (1 - V Vᴴ)",
)
def svd(adjoint, y, a, full_matrices=False, compute_uv=True, driver=None):
    u_bar, s_bar, vh_bar = adjoint
    if not compute_uv:
        u, _, vh = aten._linalg_svd(a, False, True)
        return (u * s_bar.unsqueeze(-2)) @ vh
    u, s, vh = y
    k = s.shape[-1]
    if u.shape[-1] > k:
        u, u_bar = _leading(u, u_bar, k)
    if vh.shape[-2] > k:
        v, v_bar = _leading(vh.mH, None if vh_bar is None else vh_bar.mH, k)
        vh, vh_bar = v.mH, None if v_bar is None else v_bar.mH
    if u_bar is None and vh_bar is None:
        return (u * s_bar.unsqueeze(-2)) @ vh
    row, column = s.unsqueeze(-2), s.unsqueeze(-1)
    gaps = _off_diagonal_gaps(row, column)
    middle = torch.zeros_like(u.mH @ u) if s_bar is None else torch.diag_embed(s_bar).to(u.dtype)
    if u_bar is not None:
        inner = u.mH @ u_bar
        middle = middle + _skew(inner) / gaps * row
        if a.is_complex():  # the phase shared by uᵢ and vᵢ
            phase = torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1).imag / s)
            middle = middle + torch.complex(torch.zeros_like(phase), phase)
    if vh_bar is not None:
        middle = middle + column * (_skew(vh @ vh_bar.mH) / gaps)
    a_bar = u @ middle @ vh
    if u_bar is not None and u.shape[-2] > k:
        scaled = u_bar / row
        a_bar = a_bar + (scaled - u @ (u.mH @ scaled)) @ vh
    if vh_bar is not None and vh.shape[-1] > k:
        scaled = vh_bar / column
        a_bar = a_bar + u @ (scaled - (scaled @ vh.mH) @ vh)
    return a_bar


def _leading(u, u_bar, k):
    """The first ``k`` columns of an orthogonal U = [U₁ | U₂], and their adjoint.

    U₂ completes U₁ and turns with it: dU₂ = -U₁ dU₁ᴴ U₂, up to rotations within U₂, which are arbitrary. Autograd
    leaves Ū₂ out, which is right only where it is zero.
    """
    u1, u2 = u[..., :k], u[..., k:]
    if u_bar is None:
        return u1, None
    return u1, u_bar[..., :k] - u2 @ (u_bar[..., k:].mH @ u1)


# dY = -Y dA Y + Y Yᴴ dAᴴ (1 - A Y) + (1 - Y A) dAᴴ Yᴴ Y   (Golub and Pereyra, 1973)
@rule(aten.linalg_pinv.atol_rtol_tensor, formula="Ā = -Yᴴ Ȳ Yᴴ + (1 - A Y) Ȳᴴ Y Yᴴ + Yᴴ Y Ȳᴴ (1 - Y A)")
def pinv(adjoint, y, a, atol=None, rtol=None, hermitian=False):
    return _pinv(adjoint, y, a)


# dX by way of A⁺, as above. The residuals ρ = ‖A X - B‖², column by column, do not change with X: they are the least.
@rule(aten.linalg_lstsq.default, formula="X = A⁺ B: B̄ = A⁺ᴴ X̄ - E, Ā = (A⁺̄ = X̄ Bᴴ) + E Xᴴ, where E = 2 ρ̄ (A X - B)")
def lstsq(adjoint, y, a, b, rcond=None, driver=None):
    x_bar, residuals_bar = adjoint[:2]
    x = y[0]
    vector = b.dim() == 1 or (b.dim() + 1 == a.dim() and b.shape == a.shape[:-1])
    if vector:
        b, x = b.unsqueeze(-1), x.unsqueeze(-1)
        x_bar = None if x_bar is None else x_bar.unsqueeze(-1)
    a_bar, b_bar = None, None
    if x_bar is not None:
        inverse = torch.linalg.pinv(a)
        a_bar, b_bar = _pinv(x_bar @ b.mH, inverse, a), inverse.mH @ x_bar
    if residuals_bar is not None and residuals_bar.numel():
        error = 2 * residuals_bar.unsqueeze(-2) * (a @ x - b)
        a_bar = error @ x.mH if a_bar is None else a_bar + error @ x.mH
        b_bar = -error if b_bar is None else b_bar - error
    return a_bar, b_bar.squeeze(-1) if vector and b_bar is not None else b_bar


def _pinv(adjoint, y, a):
    left = adjoint.mH @ y @ y.mH
    right = y.mH @ y @ adjoint.mH
    return -(y.mH @ adjoint @ y.mH) + left - a @ (y @ left) + right - (right @ y) @ a


@rule(aten.linalg_matrix_exp.default, formula="Ā: the upper right block of exp [[Aᴴ, Ȳ], [0, Aᴴ]]")
def matrix_exp(adjoint, y, a):
    n = a.shape[-1]
    top = torch.cat([a.mH, adjoint], -1)
    bottom = torch.cat([torch.zeros_like(a), a.mH], -1)
    return torch.linalg.matrix_exp(torch.cat([top, bottom], -2))[..., :n, n:]


@rule(aten.linalg_cross.default, formula="x̄ = z* × ȳ, z̄ = ȳ × x*")
def cross(adjoint, y, x, z, dim=-1):
    return torch.linalg.cross(conj(z), adjoint, dim=dim), torch.linalg.cross(adjoint, conj(x), dim=dim)


@expand(aten.linalg_householder_product.default, formula="Π (1 - τᵢ vᵢ vᵢᴴ), the first columns")
def householder_product(reflectors, tau):
    rows, columns = reflectors.shape[-2:]
    q = torch.eye(rows, columns, dtype=reflectors.dtype, device=reflectors.device)
    if not reflectors.numel():
        return q.repeat(*reflectors.shape[:-2], 1, 1)
    return _reflect(q.expand(reflectors.shape), reflectors, tau, reversed(range(tau.shape[-1])))


@expand(aten.ormqr.default, formula="Q C, or Qᴴ C, C Q, C Qᴴ, with Q = Π (1 - τᵢ vᵢ vᵢᴴ)")
def ormqr(reflectors, tau, other, left=True, transpose=False):
    if not reflectors.numel():  # no reflection; autograd has no gradient of theirs, and not an empty one
        return other.clone()
    if not left:
        return ormqr(reflectors, tau, other.mH, True, not transpose).mH
    steps = range(tau.shape[-1])
    if transpose:
        return _reflect(other, reflectors, conj(tau), steps)
    return _reflect(other, reflectors, tau, reversed(steps))


def _reflect(matrix, reflectors, tau, steps):
    """(1 - τᵢ vᵢ vᵢᴴ) times ``matrix``, for each step; vᵢ is 0 above row i and 1 there."""
    rows = reflectors.shape[-2]
    place = torch.arange(rows, device=reflectors.device)
    for i in steps:
        column = reflectors[..., :, i]
        v = torch.where(place > i, column, (place == i).to(column.dtype)).unsqueeze(-1)
        matrix = matrix - tau[..., i, None, None] * (v @ (v.mH @ matrix))
    return matrix


# -- helpers -----------------------------------------------------------------------------------------------------------


def _skew(x):
    return x - x.mH


def _real_diagonal(x):
    diagonal = x.diagonal(dim1=-2, dim2=-1)
    return diagonal.real if x.is_complex() else diagonal


def _gaps(values):
    """λⱼ - λᵢ off the diagonal, 1 on it."""
    return _off_diagonal_gaps(values.unsqueeze(-2), values.unsqueeze(-1), power=1)


def _off_diagonal_gaps(row, column, power=2):
    gaps = row - column if power == 1 else (row - column) * (row + column)
    return gaps + torch.eye(row.shape[-1], dtype=row.dtype, device=row.device)
