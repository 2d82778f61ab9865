"""check_grads accepts right derivatives and names wrong ones."""

import re

import pytest
import torch

import memograd as mg
from memograd.testing import GradientMismatchError, check_grads
from memograd.verify.differences import central, complex_step, is_analytic

X = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_right_derivatives_pass():
    check_grads(lambda x, z: (x.sin() * z, (x * z).cos()), (X, X + 1))
    check_grads(lambda x, n: x.sin() * n["scale"], (X, {"scale": 3}))


def test_rules_against_central_differences():
    """Witnesses other than autograd, for a rule of each family."""
    weight, image = torch.randn(2, 2, 3, 3).double(), torch.randn(1, 2, 5, 5).double()
    F = torch.nn.functional
    check_grads(lambda x, w: F.conv2d(x, w, padding=1, stride=2), (image, weight))
    check_grads(lambda x: F.layer_norm(x, (5,)), (image,))
    check_grads(lambda x: F.max_pool2d(x, 2), (image,))
    check_grads(lambda x: F.log_softmax(x, -1)[..., 0], (X,))
    check_grads(lambda x, z: (x @ z.t()).logsumexp(1), (X, X + 1))
    check_grads(lambda x: x.clamp(-10, 10)[[0, 0, 2]].cumsum(0).pow(3), (X,))
    check_grads(lambda x: torch.linalg.solve(x.t() @ x + torch.eye(2).double(), x.t()), (X,))


def test_complex_arguments():
    z = torch.randn(2, 3, dtype=torch.complex128)
    check_grads(lambda z: (z.abs() * z.conj().sin(), z @ z.mH), (z,))
    check_grads(lambda x, z: torch.fft.fft(x) * z, (X.t().contiguous(), z))


@pytest.fixture(scope="module")
def library():
    """Operators that compute one thing, with rules that say another."""
    library = torch.library.Library("memograd_wrong", "DEF")

    def define(name, function):
        library.define(f"{name}(Tensor x) -> Tensor")
        torch.library.impl(library, name, "CompositeExplicitAutograd")(function)
        return getattr(torch.ops.memograd_wrong, name)

    return define


def message(f, *args, **kwargs):
    with pytest.raises(GradientMismatchError) as raised:
        check_grads(f, args, **kwargs)
    return str(raised.value)


def test_a_wrong_rule_is_named(library):
    operator = library("square", lambda x: x * x)

    def program(x):
        return operator(x.sin()).exp()

    @mg.rule(operator.default)
    def square(adjoint, y, x):
        return adjoint * x  # the factor 2 is missing

    text = message(program, X)
    assert "order 1, argument 0 of shape (3, 2)" in text
    assert "the first wrong operator is memograd_wrong.square.default (rule at test_testing.py:" in text
    assert re.search(r"called at \S*test_testing.py:\d+ \(return operator", text)
    index, ours, theirs = re.search(r"index \((\d), \d\) .* is (\S+), finite differences give (\S+)$", text).groups()
    assert int(index) < 3 and float(theirs) == pytest.approx(2 * float(ours), rel=1e-5)


def test_the_worst_element_is_named(library):
    operator = library("cube", lambda x: x**3)

    @mg.rule(operator.default)
    def cube(adjoint, y, x):
        wrong = torch.arange(6).reshape(3, 2) == 5
        return adjoint * (3 * x**2 + wrong)

    text = message(lambda z, x: z.sum() * operator(x), X, X + 1)
    assert "argument 1 of shape (3, 2)" in text and "at index (2, 1)" in text


def test_a_rule_that_is_wrong_only_when_differentiated_again(library):
    operator, slope = library("sine", torch.sin), library("slope", torch.cos)

    @mg.rule(operator.default)
    def sine(adjoint, y, x):
        return adjoint * slope(x)

    @mg.rule(slope.default)
    def slope_rule(adjoint, y, x):
        return adjoint * x.sin()  # the sign is missing

    check_grads(operator, (X,), order=1)
    text = message(operator, X)
    assert text.startswith("order 2, argument 0") and "memograd_wrong.slope.default (rule at" in text


def test_a_rule_that_is_no_linear_map_breaks_the_adjoint_identity(library):
    """J v is found through the derivative of the rule, Jᵀ u through its value: a constant term shows in one only."""
    operator = library("twice", lambda x: 2 * x)

    @mg.rule(operator.default)
    def twice(adjoint, y, x):
        return 2 * adjoint + 1

    text = message(operator, X, order=1)
    assert "<u, Jv> =" in text and "but <Jᵀu, v> =" in text and "memograd_wrong.twice" in text


def test_the_complex_step_sees_what_differences_cannot(library):
    operator = library("tenth", lambda x: x / 10)

    @mg.rule(operator.default)
    def tenth(adjoint, y, x):
        return adjoint * 0.1

    def f(x):
        return x.sin() * (x * x).exp()

    assert is_analytic(lambda x: (f(x),), [X])
    slope = complex_step(lambda x: (f(x),), [X], [torch.ones_like(X)])[0]
    x = X.clone().requires_grad_()
    (exact,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(slope, exact, rtol=1e-13, atol=0)
    assert not torch.allclose(central(lambda x: (f(x),), [X], [torch.ones_like(X)], 1e-3)[0], exact, rtol=1e-9)
    assert not is_analytic(lambda x: (operator(x),), [X])  # not known to be


@pytest.mark.parametrize(
    "f",
    [
        torch.abs,
        torch.relu,
        lambda x: x.conj() * x if x.is_complex() else x * x,
        lambda x: x * x.mean().real,
        lambda x: x.exp() if x.is_complex() else x.sin(),
        lambda x: torch.linalg.vector_norm(x),
        lambda x: x.double().sin(),
    ],
)
def test_functions_that_are_not_analytic_are_not_stepped(f):
    assert not is_analytic(lambda x: (f(x),), [X.clone()])
    check_grads(f, (X,), order=1)


def test_low_precision_is_refused():
    with pytest.raises(mg.MemogradError, match="float64"):
        check_grads(torch.sin, (X.float(),))
