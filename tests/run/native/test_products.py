"""Products of matrices as tiles: beside PyTorch in float64, for every remainder of rows, columns and depth."""

import pytest
import torch

import memograd as mg
from memograd.run import native

pytestmark = pytest.mark.skipif(native.supports(mg.capture(lambda x: x + 1, torch.ones(2))) is not None, reason="no C")


def matrix(rows, columns, how, dtype):
    memory = torch.randn(2 * max(rows, columns), 2 * max(rows, columns), dtype=dtype)
    parts = {
        "plain": lambda: memory.flatten()[: rows * columns].view(rows, columns),
        "transposed": lambda: memory.flatten()[: rows * columns].view(columns, rows).t(),
        "strided": lambda: memory[: 2 * rows : 2, 1 : 2 * columns : 2],
        "one row": lambda: memory[3, :columns].expand(rows, columns),
    }
    return parts[how]()


def compiled(f, *args):
    program = native.compile(mg.capture(f, *args))
    assert "memograd_product" in native.emit.emit(mg.capture(f, *args)).text
    return program(*args)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 32, 64), (15, 33, 300), (2, 70, 257), (23, 4, 128), (64, 10, 513)])
def test_products_are_pytorchs(shape, dtype):
    torch.manual_seed(0)
    m, n, k = shape
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for left, right in (("plain", "plain"), ("transposed", "strided"), ("strided", "transposed"), ("plain", "one row")):
        a, b = matrix(m, k, left, dtype), matrix(k, n, right, dtype)
        expected = (a.double() @ b.double()).to(dtype)
        torch.testing.assert_close(compiled(lambda a, b: a @ b, a, b), expected, rtol=tolerance / 10, atol=tolerance)


def test_what_is_added_and_scaled_is_added_and_scaled():
    torch.manual_seed(1)
    bias, a, b = torch.randn(40), torch.randn(30, 50), torch.randn(50, 40)
    expected = torch.addmm(bias, a, b, beta=0.5, alpha=-2)
    torch.testing.assert_close(compiled(lambda *t: torch.addmm(*t, beta=0.5, alpha=-2), bias, a, b), expected)
    c, d, e = torch.randn(3, 1, 40), torch.randn(3, 30, 50), torch.randn(3, 50, 40)
    torch.testing.assert_close(compiled(torch.baddbmm, c, d, e), torch.baddbmm(c, d, e), rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_stay_in_their_rows():
    a, b = torch.randn(17, 40), torch.randn(40, 37)
    a[3, 5], a[11, 7] = float("nan"), float("inf")
    torch.testing.assert_close(compiled(lambda a, b: a @ b, a, b), a @ b, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_sums_over_rows_are_pytorchs():
    torch.manual_seed(2)
    x = torch.randn(5, 7, 300)
    for dims in ((0,), (1,), (0, 1), (-2,)):
        for keepdim in (False, True):
            program = native.compile(mg.capture(lambda x, d=dims, k=keepdim: (x * 2).sum(d, keepdim=k), x))
            torch.testing.assert_close(program(x)[0], (x.double() * 2).sum(dims, keepdim=keepdim).float())


def test_a_root_of_single_numbers_taken_in_double_is_the_root_in_single():
    x = torch.rand(10_000) * 10.0 ** torch.randint(-38, 38, (10_000,))
    graph = mg.capture(lambda x: x.double().sqrt().float(), x)
    assert "sqrtf" in native.emit.emit(graph).text
    assert torch.equal(native.compile(graph)(x)[0], x.double().sqrt().float())
