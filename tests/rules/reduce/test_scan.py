"""Running products against torch.autograd, above all where elements are zero."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from witness import check

import memograd as mg


@pytest.mark.parametrize("zeros", [[], [0], [2], [1, 3], [2, 3], [0, 1, 4], [0, 1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_running_product(zeros, dtype):
    x = torch.randn(5, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[zeros] = 0
    check(lambda x: x.cumprod(0), x)
    check(lambda x: x.cumprod(-1), x)


@pytest.mark.parametrize("length", range(10))
def test_running_product_of_any_length(length):
    check(lambda x: x.cumprod(0), torch.linspace(-1, 2, length, dtype=torch.float64))


def test_running_product_of_a_number():
    check(lambda x: x.cumprod(0), torch.tensor(2.0, dtype=torch.float64))


def test_third_order_at_zeros():
    x = torch.tensor([2.0, 0.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 7.0], dtype=torch.float64)

    def loss(x):
        return (x.cumprod(0) * weights).sum()

    def third(grad):
        return grad(lambda x: grad(lambda x: (grad(loss)(x) * weights).sum())(x)[3])(x)

    torch.testing.assert_close(third(mg.grad), third(torch.func.grad))


@pytest.mark.parametrize("x", [[1e3, -1e3, 1e3, 5e3], [-5e3, -1e3, 5e3, 4e3], [1.0, -torch.inf, 2.0, 3.0]], ids=str)
def test_running_logsumexp_where_exp_overflows(x):
    x = torch.tensor(x, dtype=torch.float64)
    cotangent = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(leaf.logcumsumexp(0), leaf, cotangent)
    torch.testing.assert_close(mg.vjp(lambda x: x.logcumsumexp(0), x)[1](cotangent)[0], expected)


def test_cumprod_where_zeros_meet_products_that_overflow():
    """Rational numbers are the witness: autograd divides, and has infinities where the derivative is finite."""

    def exact(x, i):
        others = [Fraction(v) for k, v in enumerate(x) if k != i]
        total = sum(math.prod(others[:k]) for k in range(i, len(x)))
        return float(total) if total < Fraction(1e308) else math.inf

    gradient = mg.grad(lambda x: x.cumprod(0).sum())
    with mg.testing.check_transforms(False):
        for x in itertools.product([0.0, 1e200, 0.5], repeat=6):
            expected = torch.tensor([exact(x, i) for i in range(6)], dtype=torch.float64)
            point = torch.tensor(x, dtype=torch.float64)
            if not point.cumprod(0).isnan().any():  # it overflows before it comes to a zero
                torch.testing.assert_close(gradient(point), expected)
    x = torch.tensor([0.0, 1e200, torch.nan, 1e200], dtype=torch.float64)
    with mg.testing.check_transforms(False):
        assert gradient(x).isnan().any(), "what is no number stays seen"
