"""Matrix products against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, randn
from torch import nn

import memograd as mg


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (2, 4, 2, 3)], ids=str)
def test_linear_layers_have_the_gradients_of_autograd(shape, bias):
    check(double(nn.Linear(3, 5, bias=bias)), randn(*shape))


def test_bilinear_layers_have_the_gradients_of_autograd():
    check(double(nn.Bilinear(3, 4, 5)), randn(2, 6, 3), randn(2, 6, 4))


def test_bilinear_never_holds_all_products():
    """Nothing as large as rows x outputs x inputs x inputs is made, as in PyTorch's own derivative."""
    model = nn.Bilinear(7, 6, 5)
    x, z = torch.randn(20, 7, requires_grad=True), torch.randn(20, 6)
    graph = mg.differentiate(mg.capture(lambda x, z: model(x, z).sum(), x, z))
    assert max(node.meta["val"].numel() for node in graph.nodes) <= 20 * 7 * 6


CASES = {
    "mm": (torch.mm, [(2, 3), (3, 4)]),
    "bmm": (torch.bmm, [(5, 2, 3), (5, 3, 4)]),
    "mv": (torch.mv, [(2, 3), (3,)]),
    "dot": (torch.dot, [(3,), (3,)]),
    "vdot": (torch.vdot, [(3,), (3,)]),
    "outer": (torch.outer, [(3,), (4,)]),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3), [(4,), (2, 3), (3, 4)]),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, beta=2, alpha=3), [(2, 4), (5, 2, 3), (5, 3, 4)]),
    "addbmm": (lambda c, a, b: torch.addbmm(c, a, b, beta=2, alpha=3), [(2, 4), (5, 2, 3), (5, 3, 4)]),
    "addmv": (lambda c, a, b: torch.addmv(c, a, b, beta=2, alpha=3), [(2,), (2, 3), (3,)]),
    "addr": (lambda c, a, b: torch.addr(c, a, b, beta=2, alpha=3), [(2, 3), (2,), (3,)]),
    "einsum": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)]),
    "matmul": (torch.matmul, [(2, 1, 3, 4), (5, 4, 2)]),
}


@pytest.mark.parametrize("name", CASES)
def test_products_have_the_gradients_of_autograd(name):
    f, shapes = CASES[name]
    check(f, *[randn(*s) for s in shapes])


@pytest.mark.parametrize("name", ["mm", "bmm", "mv", "dot", "vdot", "outer", "addmm", "addr", "matmul"])
def test_complex_products(name):
    f, shapes = CASES[name]
    check(f, *[torch.randn(*s, dtype=torch.complex128) for s in shapes])


@pytest.mark.parametrize("name", ["addmm", "baddbmm", "addbmm", "addmv", "addr"])
def test_complex_factors(name):
    shapes = CASES[name][1]
    given = [torch.randn(*s, dtype=torch.complex128) for s in shapes]
    check(lambda c, a, b: getattr(torch, name)(c, a, b, beta=1 + 2j, alpha=3 - 1j), *given)


@pytest.mark.parametrize("name", CASES)
def test_second_order(name):
    f, shapes = CASES[name]
    check_second(f, *[randn(*s) for s in shapes])
