"""Linear algebra and Fourier transforms against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, randn
from torch import linalg

import memograd as mg
from memograd.errors import CaptureError


def well_conditioned(*shape: int, dtype=torch.float64) -> torch.Tensor:
    n = min(shape[-2:])
    return torch.randn(*shape, dtype=dtype) + 3 * torch.eye(*shape[-2:], dtype=dtype) * torch.arange(1, n + 1).max() / n


def hermitian(a):
    return a + a.mH


def positive(a):
    return a @ a.mH + torch.eye(a.shape[-1], dtype=a.dtype)


SQUARE = {
    "inv": linalg.inv,
    "det": linalg.det,
    "slogdet": lambda a: linalg.slogdet(a)[1],
    "cholesky": lambda a: linalg.cholesky(positive(a)),
    "cholesky upper": lambda a: linalg.cholesky(positive(a), upper=True),
    "cholesky_inverse": lambda a: torch.cholesky_inverse(linalg.cholesky(positive(a))),
    "lu_factor": lambda a: linalg.lu_factor(a)[0],
    "lu": lambda a: linalg.lu(a)[1:],
    "qr": linalg.qr,
    "eigvalsh": lambda a: linalg.eigvalsh(hermitian(a)),
    "svdvals": linalg.svdvals,
    "matrix_exp": linalg.matrix_exp,
    "matrix_power": lambda a: linalg.matrix_power(a, 3),
    "matrix_power -2": lambda a: linalg.matrix_power(a, -2),
    "pinv": linalg.pinv,
    "nuclear norm": lambda a: linalg.matrix_norm(a, "nuc"),
    "spectral norm": lambda a: linalg.matrix_norm(a, 2),
    "cond": linalg.cond,
}
# eigenvectors are unique up to a phase: compare what does not depend on it
GAUGE_FREE = {
    "eigh": lambda a: ((v := linalg.eigh(hermitian(a)))[1] * v[0].sin().unsqueeze(-2)) @ v[1].mH,
    "eig": lambda a: (lambda w, v: v @ torch.diag_embed(w.sin()) @ linalg.inv(v))(*linalg.eig(a)),
    "eigvals": lambda a: linalg.eigvals(a).pow(3).sum(-1),
    "svd": lambda a: (lambda u, s, vh: (u * s.sin().unsqueeze(-2)) @ vh)(*linalg.svd(a, full_matrices=False)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", [*SQUARE, *GAUGE_FREE])
def test_functions_of_square_matrices_have_the_gradients_of_autograd(name, dtype):
    torch.manual_seed(3)
    f = {**SQUARE, **GAUGE_FREE}[name]
    check(f, well_conditioned(4, 4, dtype=dtype), tolerance=1e-9)
    check(f, well_conditioned(2, 3, 3, dtype=dtype), tolerance=1e-9)


@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_where_only_one_triangle_is_read(upper):
    torch.manual_seed(3)
    a = positive(torch.randn(3, 3, dtype=torch.complex128))
    check(lambda a: linalg.cholesky(a, upper=upper), a)
    check(lambda a: torch.cholesky(a, upper=upper), a)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)], ids=str)
@pytest.mark.parametrize("name", ["qr", "pinv", "svdvals", "svd"])
def test_functions_of_rectangular_matrices_have_the_gradients_of_autograd(name, shape):
    check({**SQUARE, **GAUGE_FREE}[name], well_conditioned(*shape), tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("left", [True, False])
def test_solvers_have_the_gradients_of_autograd(left, dtype):
    b = torch.randn(4, 2, dtype=dtype) if left else torch.randn(2, 4, dtype=dtype)
    a = well_conditioned(4, 4, dtype=dtype)
    check(lambda a, b: linalg.solve(a, b, left=left), a, b)
    for upper in (True, False):
        for unit in (True, False):
            check(lambda a, b: linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unit), a, b)  # noqa: B023
    for adjoint in (True, False):
        check(lambda a, b: linalg.lu_solve(*linalg.lu_factor(a), b, left=left, adjoint=adjoint), a, b)  # noqa: B023


def test_solvers_of_vectors_and_legacy():
    a, b = well_conditioned(4, 4), randn(4, 2)
    check(linalg.solve, a, randn(4))
    check(linalg.solve, well_conditioned(2, 4, 4), randn(2, 4))
    check(lambda a, b: torch.cholesky_solve(b, linalg.cholesky(positive(a))), a, b)
    check(lambda a, b: torch.triangular_solve(b, a, upper=False, transpose=True)[0], a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("upper", [False, True])
def test_cholesky_factor_as_an_argument(upper, dtype):
    """As in autograd, the gradient fills both triangles, whatever the other one holds."""
    torch.manual_seed(3)
    b, factor = torch.randn(2, 3, 2, dtype=dtype), well_conditioned(2, 3, 3, dtype=dtype)
    check(lambda b, l: torch.cholesky_solve(b, l, upper=upper), b, factor)
    check(lambda l: torch.cholesky_inverse(l, upper=upper), factor)
    if dtype is torch.float64:
        check_second(lambda b, l: torch.cholesky_solve(b, l, upper=upper), b, factor, tolerance=1e-9)
        check_second(lambda l: torch.cholesky_inverse(l, upper=upper), factor, tolerance=1e-9)


LEAST_SQUARES = {  # shapes of A and B
    "tall": ((5, 3), (5, 2)),
    "wide": ((3, 5), (3, 2)),
    "square": ((3, 3), (3, 2)),
    "vector": ((5, 3), (5,)),
    "batch": ((2, 5, 3), (2, 5, 2)),
    "batch of vectors": ((2, 5, 3), (2, 5)),
}


@pytest.mark.parametrize("driver", ["gelsy", "gelsd", "gels"])
@pytest.mark.parametrize("name", LEAST_SQUARES)
def test_least_squares(name, driver):
    """The solution, and the residuals where the driver returns them."""
    a, b = LEAST_SQUARES[name]
    agrees = check_on_values if driver == "gelsd" and a[-2] > a[-1] else check
    agrees(lambda a, b: linalg.lstsq(a, b, driver=driver)[:2], well_conditioned(*a), randn(*b), tolerance=1e-9)
    complexes = well_conditioned(*a, dtype=torch.complex128), torch.randn(*b, dtype=torch.complex128)
    agrees(lambda a, b: linalg.lstsq(a, b, driver=driver)[:2], *complexes, tolerance=1e-9)


def check_on_values(f, *tensors, tolerance):
    """As ``check``, for a program that depends on values, of which there is a graph for one call only."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    results = f(*leaves)
    assert all(y.numel() for y in results)
    cotangents = tuple(torch.randn_like(y) for y in results)
    expected = torch.autograd.grad(results, leaves, cotangents)
    found = mg.vjp(f, *tensors)[1](cotangents)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("driver", ["gelsd", "gelss"])
def test_a_matrix_without_full_rank_has_no_residuals_by_drivers_that_look_at_the_rank(driver):
    full, b = well_conditioned(5, 3), randn(5, 2)
    deficient = full[:, [0, 0, 1]]

    def loss(a, b):
        solution, residuals = linalg.lstsq(a, b, driver=driver)[:2]
        return solution.sum() + (residuals.sum() if residuals.numel() else 0) + residuals.numel() * a.sum()

    ours = mg.grad(loss, argnums=(0, 1))
    for a in (full, deficient, full):
        leaves = [x.clone().requires_grad_() for x in (a, b)]
        torch.testing.assert_close(ours(a, b), torch.autograd.grad(loss(*leaves), leaves))
    with pytest.raises(CaptureError, match=r"linalg_lstsq.*needs a tensor's value"):
        mg.capture(loss, full, b)


def test_a_step_through_least_squares_notices_another_rank():
    a, b = well_conditioned(5, 3), randn(5, 2)
    ours, plain = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))

    class Solved(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, a):
            solution, residuals = linalg.lstsq(a * self.weight, b, driver="gelsd")[:2]
            return solution.sum() + residuals.numel() * self.weight.sum()

    theirs, optimizer = Solved(plain), torch.optim.SGD([plain], 0.1)
    step = mg.TrainStep(Solved(ours), None, torch.optim.SGD([ours], 0.1))
    for batch in (a, a[:, [0, 0, 1]], a):
        optimizer.zero_grad()
        theirs(batch).backward()
        optimizer.step()
        step(batch)
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("output", [0, 1])
def test_second_order_least_squares(output):
    check_second(
        lambda a, b: linalg.lstsq(a, b, driver="gels")[output], well_conditioned(5, 3), randn(5, 2), tolerance=1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_determinant_of_singular_matrices(dtype):
    """In a batch with others, which must not notice, also in second derivatives. (``backward()`` gives 0 where the rank
    is one less than full; ``torch.func`` gives the cofactors, and so do differences.)"""
    torch.manual_seed(0)
    rank_two, shift = torch.diag(torch.tensor([2.0, 3.0, 0.0])), torch.diag(torch.ones(2), 1)
    a = torch.stack([torch.randn(3, 3, dtype=dtype), torch.zeros(3, 3), torch.ones(3, 3), rank_two, shift])
    weights = torch.arange(1, 6).to(dtype)
    ours, theirs = (lib.vjp(linalg.det, a)[1](weights)[0] for lib in (mg, torch.func))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    assert not linalg.det(a[1:]).any() and ours[3:].any()

    def f(a):
        y = linalg.det(a)
        return (y * y.conj() + y).real.sum()

    first, last = (
        lib.grad(lambda a, lib=lib: (lib.grad(f)(a) * weights[:, None, None]).real.sum())(a) for lib in (mg, torch.func)
    )
    torch.testing.assert_close(first[[0, 3]], last[[0, 3]], atol=1e-10, rtol=1e-10, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 4, 2), (3, 3)], ids=str)
def test_singular_vectors_of_the_null_spaces(shape, dtype):
    """Where autograd leaves the further columns of U and V out. The projection on them is 1 - A A⁺, or 1 - A⁺ A."""
    torch.manual_seed(3)
    a, rank = torch.randn(*shape, dtype=dtype), min(shape[-2:])
    left, right = (torch.randn(n, n, dtype=dtype) for n in shape[-2:])

    def by_vectors(a):
        u, _, vh = linalg.svd(a, full_matrices=True)
        u, vh = u[..., rank:], vh[..., rank:, :]
        return ((u @ u.mH * left).sum() + (vh.mH @ vh * right).sum()).real.sin()

    def by_inverse(a):
        one, other = (torch.eye(n, dtype=dtype) for n in shape[-2:])
        y = linalg.pinv(a)
        return (((one - a @ y) * left).sum() + ((other - y @ a) * right).sum()).real.sin()

    torch.testing.assert_close(by_vectors(a), by_inverse(a))
    with mg.testing.check_transforms(False):
        torch.testing.assert_close(mg.grad(by_vectors)(a), torch.func.grad(by_inverse)(a), atol=1e-10, rtol=1e-9)
        if dtype is torch.float64:
            along = torch.randn_like(a)
            ours = mg.grad(lambda a: (mg.grad(by_vectors)(a) * along).sum())(a)
            theirs = torch.func.grad(lambda a: (torch.func.grad(by_inverse)(a) * along).sum())(a)
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-8)


def test_singular_vectors_cut_after_the_full_factorization():
    def f(a):
        u, s, vh = linalg.svd(a, full_matrices=True)
        return (u[..., :2] * s.sin()) @ vh[..., :2, :]

    for shape in ((4, 2), (2, 4)):
        check(f, well_conditioned(*shape), tolerance=1e-9)
        check_second(f, well_conditioned(*shape), tolerance=1e-8)


def test_products_of_matrices_have_the_gradients_of_autograd():
    check(lambda a, b: linalg.cross(a, b), randn(2, 3), randn(2, 3))
    check(lambda a, b, c: linalg.multi_dot([a, b, c]), randn(2, 3), randn(3, 4), randn(4, 2))
    check(lambda a, t: linalg.householder_product(a, t), randn(4, 3), randn(3))
    check(lambda a, t, c: torch.ormqr(a, t, c), randn(4, 3), randn(3), randn(4, 2))
    check(lambda a, t, c: torch.ormqr(a, t, c, left=False, transpose=True), randn(4, 3), randn(3), randn(2, 4))


@pytest.mark.parametrize(
    "name", ["inv", "det", "slogdet", "cholesky", "lu_factor", "qr", "matrix_exp", "eigh", "svd", "pinv"]
)
def test_second_order(name):
    torch.manual_seed(3)
    check_second({**SQUARE, **GAUGE_FREE}[name], well_conditioned(3, 3), tolerance=1e-7)


def test_second_order_solve():
    check_second(linalg.solve, well_conditioned(3, 3), randn(3, 2), tolerance=1e-8)
    check_second(
        lambda a, b: linalg.solve_triangular(a, b, upper=True), well_conditioned(3, 3), randn(3, 2), tolerance=1e-8
    )


FOURIER = {
    "fft": (torch.fft.fft, torch.complex128),
    "ifft": (torch.fft.ifft, torch.complex128),
    "rfft": (torch.fft.rfft, torch.float64),
    "irfft": (torch.fft.irfft, torch.complex128),
    "hfft": (torch.fft.hfft, torch.complex128),
    "ihfft": (torch.fft.ihfft, torch.float64),
    "fft2": (torch.fft.fft2, torch.complex128),
    "rfft2": (torch.fft.rfft2, torch.float64),
    "irfft2": (torch.fft.irfft2, torch.complex128),
    "fftn of reals": (torch.fft.fftn, torch.float64),
}


@pytest.mark.parametrize("norm", ["forward", "backward", "ortho"])
@pytest.mark.parametrize("name", FOURIER)
def test_fourier_transforms_have_the_gradients_of_autograd(name, norm):
    f, dtype = FOURIER[name]
    for length in (6, 7):
        check(lambda x: f(x, norm=norm), torch.randn(3, 4, length, dtype=dtype))


def test_fourier_of_other_lengths_and_second_order():
    check(lambda x: torch.fft.irfft(torch.fft.rfft(x, n=9), n=7), randn(3, 8))
    check(lambda x: torch.fft.fftshift(torch.fft.fft(x)).abs(), randn(3, 8))
    check_second(lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2).sin(), randn(3, 8))
