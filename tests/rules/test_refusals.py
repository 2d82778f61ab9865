"""Derivatives that are not known are errors, never silent zeros; and rules that were once wrong."""

import pytest
import torch
from witness import check

import memograd as mg


def positive(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1.5


@pytest.mark.parametrize("f", [torch.igamma, torch.igammac, torch.special.zeta], ids=lambda f: f.__name__)
def test_first_argument_is_refused_and_the_second_is_not(f):
    a, x = positive(3), positive(3) + 1
    with pytest.raises(mg.NotDifferentiableError, match="first argument"):
        mg.grad(lambda a: f(a, x).sum())(a)
    check(lambda x: f(a, x), x, second=False)


@pytest.mark.parametrize("f", [torch.heaviside, torch.floor_divide], ids=lambda f: f.__name__)
def test_what_autograd_refuses(f):
    other = positive(3)
    with pytest.raises(mg.NotDifferentiableError, match="detach"):
        mg.grad(lambda x: f(x, other).sum())(positive(3))


def test_gamma_samples_once_but_not_twice():
    def loss(a):
        return torch._standard_gamma(a).sum()

    a = positive(3).requires_grad_()
    torch.manual_seed(0)
    (expected,) = torch.autograd.grad(loss(a), a)
    torch.manual_seed(0)
    torch.testing.assert_close(mg.grad(loss)(a.detach()), expected)
    with pytest.raises(mg.NotDifferentiableError, match="gamma sample"):
        mg.grad(lambda a: mg.grad(loss)(a).sum())(a.detach())


@pytest.mark.parametrize("uplo", ["L", "U"])
def test_eigh_has_a_hermitian_gradient(uplo):
    a = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    check(lambda a: torch.linalg.eigh(a, UPLO=uplo)[1].abs(), a, second=False)


def test_quantile_of_several_levels():
    levels = torch.tensor([0.2, 0.7], dtype=torch.float64)
    check(lambda x: torch.quantile(x, levels, dim=0), positive(3, 5), second=False)


def test_group_norm_of_no_elements():
    check(lambda x: torch.nn.functional.group_norm(x, 2), positive(0, 2, 3), second=False)
