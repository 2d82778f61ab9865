"""Public reports of wrong derivatives of single operators, written anew. Expected is what mathematics says where the
report is about that, else torch.autograd."""

import math

import pytest
import torch
from idioms.agreement import by_autograd, check_function, close
from torch.nn import functional as F

import memograd as mg

Z = {"dtype": torch.float64}


def t(*values):
    return torch.tensor(list(values), **Z)


KNOWN = {  # source: function, point, gradient of the sum
    "pytorch#2421: norm at zero": (lambda x: x.norm(), t(0, 0), t(0, 0)),
    "pytorch#6394: a power of nought under a root": (lambda x: ((x - 1) ** 0).sqrt(), t(1), t(0)),
    "pytorch#3264: normalize by the 1-norm": (lambda x: F.normalize(x, p=1, dim=0)[-1], t(0, 0, 0.1996), t(0, 0, 0)),
    "pytorch#1631: gather the same twice": (
        lambda x: x.gather(0, torch.tensor([0, 0])) * t(0.2, 0.3),
        t(0.1),
        t(0.5),
    ),
    "pytorch#82644: product of a single zero": (lambda x: x.prod(0), t(0), t(1)),
    "tinygrad#17404: product with one zero": (lambda x: x.prod(), t(0, 2, 3), t(6, 0, 0)),
    "tinygrad#17404: product with two zeros": (lambda x: x.prod(), t(0, 0, 3), t(0, 0, 0)),
    "burn#3864: cumprod with a zero": (lambda x: x.cumprod(0), t(2, 0, 3, 4), t(1, 32, 0, 0)),
    "tensorflow#3862: cumprod of a zero": (lambda x: x.cumprod(0), t(0), t(1)),
    "pytorch#31782: cumprod of nothing": (lambda x: x.cumprod(-1), torch.zeros(2, 0, **Z), torch.zeros(2, 0, **Z)),
    "pytorch#31782: cumsum of nothing": (lambda x: x.cumsum(-1), torch.zeros(2, 0, **Z), torch.zeros(2, 0, **Z)),
    "pytorch#27134: exponent of zero": (lambda b: t(0, 2) ** b, t(1, 1), t(0, 2 * math.log(2))),
    "pytorch#80770: xlogy at zero": (lambda x: x.xlogy(torch.tensor(2.0, **Z)), t(0, 0), t(math.log(2), math.log(2))),
    "tensorflow#56873: xlog1py at zero": (lambda x: torch.special.xlog1py(x, t(1.0)), t(0), t(math.log(2))),
    "jax#14397: powers of an arange": (lambda z: z ** torch.arange(0, 2), t(1.0), t(1)),
    "jax#37821: maximum with zero at zero": (lambda x: torch.maximum(x, t(0)), t(0), t(0.5)),
    "pytorch#184572: relu at zero": (F.relu, t(0), t(0)),
    "pytorch#184574: relu6 at its borders": (F.relu6, t(0, 6), t(0, 0)),
    "pytorch#184574: hardtanh at its borders": (F.hardtanh, t(-1, 1), t(0, 0)),
    "pytorch#56734: maximum of equals": (lambda x: torch.max(x, t(1, 2)), t(1, 2), t(0.5, 0.5)),
    "pytorch/xla#1718: a part set to zero": (
        lambda x: (y := x * 3, y.__setitem__(slice(0, 2), 0))[0],
        t(1, 2, 3, 4),
        t(0, 0, 3, 3),
    ),
    "tinygrad#17862: asin at zero": (torch.asin, t(0), t(1)),
    "lightning-thunder#1284: an argument is written to": (lambda x: x.mul_(2), t(1, 1), t(2, 2)),
}


@pytest.mark.parametrize("source", KNOWN)
def test_known_gradients(source):
    f, x, expected = KNOWN[source]
    torch.testing.assert_close(mg.grad(lambda x: f(x).sum())(x.clone()), expected)


A = torch.tensor([[1.0, 0.3, -0.5], [0.2, 2.0, 0.4], [-0.1, 0.7, 1.5]], **Z)
U, V = t(0.3, -1.2, 0.8), t(0.9, 0.4, 1.1)
P = t(0.2, 0.7, 0.4)


def polar_and_back(x, y):
    angle, radius = torch.atan2(y, x), torch.hypot(x, y)
    return (radius * angle.cos()).sum() ** 2 + (radius * angle.sin()).sum()


def pseudoinverse(a):
    u, s, v = torch.linalg.svd(a, full_matrices=False)
    return (v.mT @ torch.diag(1 / s) @ u.mT).pow(2).sum()


def option(s):
    u = torch.exp(s * 0.1)
    return sum(p * F.softplus(100 * u**k - 100) for p, k in [(0.25, 2), (0.5, 0), (0.25, -2)]).sum()


SMOOTH = {  # source: function and points; torch.autograd to second order
    "pytorch#59477: cross entropy, summed, twice": (
        lambda p, y: F.binary_cross_entropy(p, y, reduction="sum"),
        [P, P.flip(0)],
    ),
    "pytorch#78355: huber, twice": (lambda a, b: F.huber_loss(a, b, reduction="none", delta=0.7).sum(), [U, V]),
    "pytorch#78355: smooth l1, twice": (lambda a, b: F.smooth_l1_loss(a, b, reduction="sum", beta=0.7), [U, V]),
    "pytorch#78355: mean squares, twice": (lambda a, b: (F.mse_loss(a, b, reduction="none") ** 2).sum(), [U, V]),
    "pytorch#78355: kl divergence, twice": (
        lambda a, b: F.kl_div(a.log_softmax(0), b.softmax(0), reduction="sum"),
        [U, V],
    ),
    "pytorch#78355: soft margin, twice": (lambda a: F.soft_margin_loss(a, V.sign()), [U]),
    "pytorch#33999: mixed derivatives": (lambda a, x: ((a * x) ** 2).sum(), [U, V]),
    "pytorch#76522: clamp by tensors": (lambda a, b, c: torch.clamp(a, b, c).pow(2).sum(), [2 * U, -V / 3, V / 3]),
    "pytorch#7002: clamp": (lambda a: a.clamp(0, 1).pow(3).sum(), [t(0.0, 0.5, 1.0, 2.0)]),
    "pytorch#184572: clamp_min": (lambda a: a.clamp_min(0).pow(3).sum(), [t(0.0, 0.5, -1.0)]),
    "jax#6024: even power of an absolute value": (lambda x: (x.abs() ** 2.5).sum(), [U]),
    "jax#6024: odd power of an absolute value": (
        lambda x: torch.where(x < 0, -(x.abs() ** 1.5), x.abs() ** 1.5).sum(),
        [U],
    ),
    "HIPS/autograd#396: where": (lambda x: torch.where(x > 0, x**3, -x).sum(), [U]),
    "HIPS/autograd#394: polar and back": (polar_and_back, [U, V]),
    "HIPS/autograd#412: density by its covariance": (
        lambda c: torch.logdet(c @ c.T) + U @ torch.linalg.solve(c @ c.T, U),
        [A],
    ),
    "pytorch#110009: pseudoinverse": (lambda a: torch.linalg.pinv(a[:, :2]).pow(2).sum(), [A]),
    "pytorch#110009: pseudoinverse by its parts": (pseudoinverse, [A]),
    "pytorch#49724: logaddexp with what is not there": (
        lambda x: torch.logaddexp(x, torch.full_like(x, -math.inf)).sum(),
        [U],
    ),
    "pytorch#49724: logsumexp with what is not there": (
        lambda x: torch.logsumexp(torch.cat([x, t(-math.inf)]), 0),
        [U],
    ),
    "pytorch#88097: scatter that multiplies": (
        lambda x: torch.ones(2, **Z).scatter_reduce(0, torch.tensor([0, 0, 1]), x, "prod").pow(2).sum(),
        [U],
    ),
    "pytorch#180201: sines in layers": (lambda x, w: torch.sin(torch.sin(w @ x) @ w).sum(), [U, A]),
    "pytorch#98276: angle by atan2": (lambda x, y: torch.atan2(y, x).sum(), [t(5e-3, 1.0), t(1e-3, -2.0)]),
    "jax#277: an option's gamma": (option, [P]),
}


@pytest.mark.parametrize("source", SMOOTH)
def test_first_and_second_derivatives(source):
    check_function(*SMOOTH[source])


def test_second_derivative_of_a_product_with_two_zeros():
    """pytorch#106789: it is not zero, though the first is."""
    hessian = mg.hessian(lambda x: x.prod())(t(2, 3, 0, 0))
    expected = torch.zeros(4, 4, **Z)
    expected[2, 3] = expected[3, 2] = 6
    torch.testing.assert_close(hessian, expected)


KINKS = {  # what is not used has no finite derivative; torch.autograd gives nan or a number, and so do we
    "pytorch#187297: root that is not used": lambda x: torch.where(x > 0, x.sqrt(), x).sum(),
    "pytorch#108618: logarithm that is not used": lambda x: torch.where(x > 2, x.log2(), 2 * x).sum(),
}


@pytest.mark.parametrize("source", KINKS)
def test_branches_that_are_not_used(source):
    x = t(4.0, 2.5, 3.0)
    _, expected, _, _ = by_autograd(KINKS[source], [x])
    close(source, [mg.grad(KINKS[source])(x)], expected, 1e-12)


def test_complex_pseudoinverse_while_the_program_is_captured():
    """pytorch#198118, pytorch#197084: a dispatch mode makes the kernel forget a conjugate."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 3, dtype=torch.complex128, generator=generator)

    def f(a):
        return (torch.linalg.pinv(a) * torch.arange(12).view(3, 4)).abs().sum()

    x = a.clone().requires_grad_()
    value = f(x)
    (expected,) = torch.autograd.grad(value, x)
    ours, found = mg.grad(f)(a), mg.value_and_grad(f)(a)[0]
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(ours, expected)
