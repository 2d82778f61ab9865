"""Public reports of transforms and programs that went wrong, written anew. Expected comes from torch.autograd."""

import math

import pytest
import torch
from idioms.agreement import check_function, plain_grad
from torch import nn
from torch.nn import functional as F

import memograd as mg

Z = {"dtype": torch.float64}
X = torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.4, -0.6]], **Z)
U, V = X[0], X[1]
JACOBIAN = torch.autograd.functional.jacobian


def test_jacobian_of_a_norm():
    """pytorch/functorch#847"""

    def f(x):
        return torch.linalg.norm(x, dim=0, keepdim=True)

    torch.testing.assert_close(mg.jacrev(f)(U), JACOBIAN(f, U))


def test_vjp_of_a_gradient_that_does_not_see_all_of_its_argument():
    """pytorch/functorch#636"""

    def model(p, x):
        return x[0] * p[0]

    out, pull = mg.vjp(lambda x: mg.grad(model)(U, x), V)
    expected = JACOBIAN(lambda x: plain_grad(model)(U, x), V, create_graph=True)
    torch.testing.assert_close(pull(torch.ones_like(out))[0], expected.sum(0))


def test_jacobian_of_a_number_by_several_arguments():
    """pytorch/functorch#292"""

    def loss(w, x, y):
        return ((x @ w - y) ** 2).mean()

    found = mg.jacrev(loss, argnums=(0, 1, 2))(U, X, V[:2])
    for ours, theirs in zip(found, JACOBIAN(loss, (U, X, V[:2])), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_jacobian_of_the_vjp_of_a_loss():
    """pytorch/functorch#858"""
    found = mg.jacrev(lambda x: mg.vjp(lambda a: F.mse_loss(a, V), x)[1](torch.ones((), **Z))[0])(U)
    torch.testing.assert_close(found, JACOBIAN(lambda x: plain_grad(lambda a: F.mse_loss(a, V))(x), U))


def test_vjp_by_the_parameters_of_a_model():
    """pytorch#172386"""
    model = nn.Linear(3, 1).double()
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    out, pull = mg.vjp(lambda p: torch.func.functional_call(model, p, X), parameters)
    expected = torch.autograd.grad(model(X).sum(), list(model.parameters()))
    for ours, theirs in zip(pull(torch.ones_like(out))[0].values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_jacobian_of_a_number_that_is_rolled():
    """pytorch#94925"""
    torch.testing.assert_close(mg.jacrev(lambda x: torch.roll(x, 1))(torch.tensor(0.3)), torch.tensor(1.0))


def test_a_loss_made_of_a_jvp():
    """pytorch#145356"""

    def loss(jvp):
        return lambda x: (jvp(lambda a: (a.tanh() * a).cumsum(0), x, V) ** 2).sum()

    ours = mg.grad(loss(lambda f, x, v: mg.jvp(f, (x,), (v,))[1]))(U)
    x = U.clone().requires_grad_()
    plain = loss(lambda f, x, v: torch.autograd.functional.jvp(f, x, v, create_graph=True)[1])
    torch.testing.assert_close(ours, torch.autograd.grad(plain(x), x)[0])


def test_a_loss_returned_with_and_without_its_history():
    """pytorch#100348"""
    (loss, shown), pull = mg.vjp(lambda x: ((x**2).mean(), (x**2).mean().detach()), U)
    torch.testing.assert_close(loss, shown)
    torch.testing.assert_close(pull((torch.ones((), **Z), torch.ones((), **Z)))[0], 2 * U / 3)


def test_second_derivative_of_sinc_at_zero():
    """jax#5054"""
    found = mg.grad(mg.grad(torch.sinc))(torch.tensor(0.2, **Z))
    x = torch.tensor(0.2, **Z)
    h = 1e-4
    expected = (torch.sinc(x + h) - 2 * torch.sinc(x) + torch.sinc(x - h)) / h**2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def base_written_between_views(x):  # pytorch#8874
    base = x * 2
    part = base[1:]
    last = part[1]
    base[0] += base[1].clone() ** 2
    return (last * part).sum() + base.prod()


def part_of_a_row_written(x):  # pytorch#36608, pytorch#49824, without unbind
    rows = (x * 1).clone()
    row = rows[0]
    row.narrow(0, 0, 2).mul_(2)
    row.view_as(row).add_(1)
    return (rows**2).sum()


def written_view_returned(x):  # pytorch#36383
    return ((x + V)[:].relu_() ** 2).sum()


def written_argument(x):  # pytorch#128035
    y = x.clone()
    y.mul_(x)
    return (y * x).sum()


def scaled_parts(x):  # pytorch#46820
    u, v = x[:1] * 2.0, x[1:] * 0.5
    u, v = u.clone(), v.clone()
    v *= u.exp().mean()
    u *= v.detach().sum() + 2
    return torch.cat([u, v]).tanh().sum()


def value_filtered_into_a_copy(x):  # pytorch#108618
    y = x.clone().detach()
    for i in range(len(x)):
        y[i] = torch.log2(x[i] + 3) if i > 0 else 2 * x[i]
    return y.sum()


def adam_in_place(x):  # lightning-thunder#657
    average, squares, step = torch.zeros(3, **Z), torch.zeros(3, **Z), torch.tensor(0.0, **Z)
    p = x * 1
    for _ in range(2):
        gradient = p.sin()
        step.add_(1)
        average.mul_(0.9).add_(gradient * 0.1)
        squares.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (squares.clone() / (1 - 0.999 ** step.clone())).sqrt() + 1e-8
        p = p - 0.1 * average.clone() / scale
    return (p**2).sum()


def masked_infinity(x):  # pytorch#18287
    return torch.where(torch.isfinite(x), x.cos(), torch.zeros_like(x)).sum() * math.pi


PROGRAMS = [
    (base_written_between_views, U),
    (part_of_a_row_written, X),
    (written_view_returned, U),
    (written_argument, U),
    (scaled_parts, X),
    (value_filtered_into_a_copy, U),
    (adam_in_place, U),
    (masked_infinity, U),
]


@pytest.mark.parametrize(("f", "x"), PROGRAMS, ids=lambda v: getattr(v, "__name__", ""))
def test_programs(f, x):
    check_function(f, [x])
