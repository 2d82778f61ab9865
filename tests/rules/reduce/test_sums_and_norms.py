"""Rules of reductions and scans, against autograd."""

import pytest
import torch
from witness import check

import memograd as mg
from memograd.testing import check_grads

DIMS = [None, 0, -1, (0, 2), (-1, 1)]
OVER_DIMS = {
    "sum": torch.sum,
    "mean": torch.mean,
    "var": torch.var,
    "std": torch.std,
    "var_mean": torch.var_mean,
    "std_mean": torch.std_mean,
    "nansum": torch.nansum,
    "amax": lambda x, dim, keepdim: torch.amax(x, () if dim is None else dim, keepdim),
    "amin": lambda x, dim, keepdim: torch.amin(x, () if dim is None else dim, keepdim),
    "logsumexp": lambda x, dim, keepdim: torch.logsumexp(x, (0, 1, 2) if dim is None else dim, keepdim),
    "norm": lambda x, dim, keepdim: torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim),
}
OVER_DIM = ["prod", "max", "min", "median", "nanmedian", "mode", "aminmax"]
SCANS = ["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"]


def values(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", OVER_DIMS)
@pytest.mark.parametrize("dim", DIMS, ids=str)
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_dims(name, dim, keepdim):
    check(lambda x: OVER_DIMS[name](x, dim=dim, keepdim=keepdim), values(2, 3, 4))


@pytest.mark.parametrize("name", OVER_DIM)
@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_over_one_dim(name, dim, keepdim):
    def f(x):
        found = getattr(torch, name)(x, dim=dim, keepdim=keepdim)
        return found if name == "prod" else tuple(found)

    x = values(3, 2, 4)
    if name == "aminmax" and not has_second_derivative(f, x):
        check_grads(f, (x,), order=2)
    else:
        check(f, x)


def has_second_derivative(f, x):
    """For autograd: that of ``aminmax`` is new."""
    leaf = x.clone().requires_grad_()
    try:
        torch.autograd.grad(f(leaf)[0].sum(), leaf, create_graph=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "min", "median", "nanmedian", "var", "std", "nansum"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
def test_over_everything(name, shape):
    if name in ("var", "std") and shape in ((), (1,)):
        pytest.skip("no degrees of freedom")
    check(getattr(torch, name), values(*shape))


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("shape, dim", [((4,), 0), ((3, 4), -1), ((3, 4), 0), ((), 0), ((0, 3), 0)])
def test_scans_have_the_gradients_of_autograd(name, shape, dim):
    f = getattr(torch, name)
    check(lambda x: f(x, dim) if name not in ("cummax", "cummin") else f(x, dim).values, values(*shape))


@pytest.mark.parametrize("zeros", [(), (1,), (0, 2), (0, 1, 2, 3)])
def test_products_with_zeros(zeros):
    x = values(4)
    x[list(zeros)] = 0
    check(lambda x: x.prod(0), x)
    check(torch.prod, x, second=len(zeros) < 2)  # autograd drops the second derivative there; prod(0) keeps it
    check(lambda x: x.cumprod(0), x, second=len(zeros) < 2)


@pytest.mark.parametrize("f", [torch.prod, lambda x: x.prod(0)])
@pytest.mark.parametrize("zeros", [(1,), (3,), (0, 2), (3, 4)])
def test_products_with_zeros_whose_others_overflow(zeros, f):
    """Of the factors that are not zero the others hold one, so that the derivative is 0 and not 0 · ∞. (Of two zeros
    and more autograd says so.)"""
    x = torch.full((5,), 1e200, dtype=torch.float64)
    x[list(zeros)] = 0
    gradient = mg.grad(f)(x)
    others = torch.tensor([i not in zeros or len(zeros) > 1 for i in range(5)])
    assert not gradient[others].any() and gradient[~others].isinf().all()
    if len(zeros) > 1:
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(gradient, *torch.autograd.grad(torch.prod(leaf), leaf))
    x[2] = torch.nan
    assert mg.grad(f)(x).isnan().any(), "what is no number stays seen"


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_ties_share(name):
    x = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]], dtype=torch.double)
    check(lambda x: getattr(torch, name)(x, 1), x)
    check(lambda x: getattr(torch, name[1:])(x), x)
    check(lambda x: getattr(torch, name[1:])(x, 1).values, x)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3])
def test_norm_in_a_given_dtype(p):
    x = values(3, 4, dtype=torch.complex64)
    check(lambda x: torch.linalg.vector_norm(x, p, 1, dtype=torch.complex128), x, second=False, rtol=1e-5, atol=1e-6)
    check(lambda x: torch.norm(x, p, 1, dtype=torch.complex128), x, second=False, rtol=1e-5, atol=1e-6)


def test_largest_absolute_value_in_a_given_dtype():
    """Against the norm of the cast: autograd (PyTorch 2.13) compares in the old dtype, finds no maximum, says nan."""
    x = values(3, 4, dtype=torch.complex64)
    ours = mg.grad(lambda x: torch.linalg.vector_norm(x, float("inf"), 1, dtype=torch.complex128).sum())(x)
    live = x.requires_grad_()
    torch.linalg.vector_norm(live.to(torch.complex128), float("inf"), 1).sum().backward()
    torch.testing.assert_close(ours, live.grad)


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, float("inf"), -float("inf")])  # of order 0: test_zeros_and_none
@pytest.mark.parametrize("dim", [None, 1])
def test_norms(p, dim):
    check(lambda x: torch.linalg.vector_norm(x, p, dim), values(3, 4))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norm_of_zero_and_distance(p):
    check(lambda x: torch.linalg.vector_norm(x, p), torch.zeros(3, dtype=torch.double), second=False)
    check(lambda x, z: torch.dist(x, z, p), values(3, 2), values(2, seed=1))


def test_selections():
    check(lambda x: torch.kthvalue(x, 2, 1).values, values(3, 4))
    check(lambda x: torch.kthvalue(x, 2, 0, keepdim=True).values, values(3, 4))
    check(torch.trace, values(3, 4))


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_corrections(correction):
    check(lambda x: torch.var(x, 1, correction=correction), values(3, 4))
    check(lambda x: torch.std(x, correction=correction), values(3, 4))


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "cumsum", "cumprod", "logcumsumexp", "var", "std"])
def test_complex(name):
    check(lambda x: getattr(torch, name)(x, 0), values(3, 2, dtype=torch.complex128))


def test_other_dtype():
    x = values(4, dtype=torch.float32)
    check(lambda x: x.sum(dtype=torch.double), x, rtol=1e-5, second=False)
    check(lambda x: x.cumprod(0, dtype=torch.double), x, rtol=1e-5, second=False)
