"""LU factorizations against torch.autograd; without pivoting against elimination written out."""

import pytest
import torch
from nn_witness import check, check_second
from torch import linalg

from memograd.rules.registry import lookup, pull_back

aten = torch.ops.aten
SHAPES = [(4, 4), (3, 5), (5, 3), (2, 4, 3), (2, 2, 4), (3, 1), (1, 3)]
FUNCTIONS = {
    "lu_factor": lambda a: linalg.lu_factor(a)[0],
    "lu": lambda a: linalg.lu(a)[1:],
    "l alone": lambda a: linalg.lu(a)[1],
    "u alone": lambda a: linalg.lu(a)[2],
    "product": lambda a: linalg.lu(a)[0] @ linalg.lu(a)[1].sin() @ linalg.lu(a)[2].sin(),
    "unpacked": lambda a: torch.lu_unpack(*linalg.lu_factor(a))[1:],
}


def matrix(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*shape, dtype=dtype, generator=generator) + 2 * torch.eye(*shape[-2:], dtype=dtype)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_order(name, shape, dtype):
    check(FUNCTIONS[name], matrix(*shape, dtype=dtype), tolerance=1e-9)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_order(name, shape):
    check_second(FUNCTIONS[name], matrix(*shape), tolerance=1e-8)


def eliminate(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L and U by Gaussian elimination without exchanging rows."""
    rows, columns = a.shape
    k = min(rows, columns)
    left: list[torch.Tensor] = []
    upper: list[torch.Tensor] = []
    for step in range(k):
        pivot_row = a[step]
        factors = torch.where(torch.arange(rows) > step, a[:, step] / pivot_row[step], 0.0)
        left.append(factors + torch.eye(rows, dtype=a.dtype)[step])
        upper.append(torch.where(torch.arange(columns) >= step, pivot_row, 0.0))
        a = a - torch.outer(factors, pivot_row)
    return torch.stack(left, 1), torch.stack(upper)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)], ids=str)
def test_without_pivoting(shape):
    """Only CUDA factorizes without pivots; here its rule gets the factors."""
    a = matrix(*shape).requires_grad_()
    l, u = eliminate(a)
    torch.testing.assert_close(l @ u, a)
    l_bar, u_bar = torch.randn_like(l), torch.randn_like(u)
    (expected,) = torch.autograd.grad([l, u], a, [l_bar, u_bar])
    op, empty = aten.linalg_lu.default, torch.empty(0, dtype=a.dtype)
    with torch.no_grad():
        found = pull_back(lookup(op), [None, l_bar, u_bar], (empty, l, u), (a,), {"pivot": False})
    torch.testing.assert_close(found[0], expected)
