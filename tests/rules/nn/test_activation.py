"""Rules of activation functions and of their backward kernels, against autograd."""

import pytest
import torch
import torch.nn.functional as F
from witness import check

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0.1, 20),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softplus_steep": lambda x: F.softplus(x, beta=3, threshold=2),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 1.3),
    "celu": lambda x: F.celu(x, 2.0),
    "selu": F.selu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "rrelu": F.rrelu,
}


def values(*shape, seed=0):
    return 2 * torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


ONCE = {"hardsigmoid"}  # autograd has no second derivative of it on the CPU: no witness


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(), (6, 2), (0, 2)])
def test_activations_have_the_gradients_of_autograd(name, shape):
    check(ACTIVATIONS[name], values(*shape), second=name not in ONCE)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "rrelu"])
def test_activation_at_its_kinks(name):
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.1, 0.5, 1.0, 3.0, 6.0], dtype=torch.double)
    check(ACTIVATIONS[name], x, second=name not in ONCE)


@pytest.mark.parametrize("dim", [0, -1])
def test_glu_has_the_gradients_of_autograd(dim):
    check(lambda x: F.glu(x, dim), values(4, 6))


def test_prelu_has_the_gradients_of_autograd():
    check(F.prelu, values(3, 4, 2), values(4, seed=1))
    check(F.prelu, values(3, 4, 2), values(1, seed=1))


@pytest.mark.parametrize("eps", [None, 0.2])
def test_logit_has_the_gradients_of_autograd(eps):
    check(lambda x: torch.logit(x, eps), torch.linspace(0.1, 0.9, 7, dtype=torch.double))


def test_in_place_activations():
    def f(x):
        y = x * 1
        F.relu_(y)
        z = x + y
        return F.leaky_relu_(z, 0.1) * F.elu_(x * 2)

    check(f, values(5), second=False)
