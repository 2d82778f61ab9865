"""``jacrev``, ``jacfwd``, ``hessian`` against torch.func."""

import time

import pytest
import torch

import memograd as mg

SEEDED = torch.Generator().manual_seed(0)
X = torch.randn(4, 2, dtype=torch.float64, generator=SEEDED)
Y = torch.randn(1, 2, dtype=torch.float64, generator=SEEDED)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def f(x, y):
    return {"a": (x.sin() * y, x + y), "b": [x.sum(), y @ x.t()]}


@pytest.mark.parametrize("argnums", [0, 1, (0,), (1, 0)])
def test_jacobians_of_pytrees(argnums):
    close(mg.jacrev(f, argnums)(X, Y), torch.func.jacrev(f, argnums)(X, Y))
    close(mg.jacfwd(f, argnums)(X, Y), torch.func.jacrev(f, argnums)(X, Y))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 1000])
def test_chunks_give_the_same_numbers(chunk_size):
    expected = torch.func.jacrev(f, argnums=(0, 1))(X, Y)
    close(mg.jacrev(f, argnums=(0, 1), chunk_size=chunk_size)(X, Y), expected)
    close(mg.jacfwd(f, argnums=(0, 1), chunk_size=chunk_size)(X, Y), expected)


def test_compositions_of_jacobians_are_those_of_torch_func():
    g = lambda x: (x.sin() * x[0]).sum() ** 2  # noqa: E731
    x = X[0]
    expected = torch.func.hessian(g)(x)
    for ours in (mg.hessian(g), mg.jacrev(mg.jacrev(g)), mg.jacfwd(mg.jacfwd(g)), mg.jacrev(mg.jacfwd(g))):
        close(ours(x), expected)
    close(mg.jacfwd(mg.hessian(g))(x), torch.func.jacrev(torch.func.hessian(g))(x))


def test_has_aux():
    g = lambda x: (x.sin(), {"cos": x.cos()})  # noqa: E731
    close(mg.jacrev(g, has_aux=True)(X), torch.func.jacrev(g, has_aux=True)(X))
    close(mg.jacfwd(g, has_aux=True)(X), torch.func.jacrev(g, has_aux=True)(X))


def test_an_operator_without_a_batching_rule_is_applied_row_by_row():
    weight, rows = torch.rand(5, 4, dtype=torch.float64), torch.arange(3)
    g = lambda x: torch.nn.functional.rms_norm(x, (2,)) * weight[rows].sum()  # noqa: E731
    expected = torch.autograd.functional.jacobian(g, X)
    close(mg.jacrev(g)(X), expected)
    close(mg.jacfwd(g)(X), expected)


def test_nothing_to_do():
    empty = torch.zeros(0, 3, dtype=torch.float64)
    close(mg.jacrev(lambda x: x.sin())(empty), torch.func.jacrev(lambda x: x.sin())(empty))
    close(mg.jacrev(lambda x: X[0])(X), torch.func.jacrev(lambda x: X[0])(X))
    close(mg.jacfwd(lambda x: X[0])(X), torch.func.jacfwd(lambda x: X[0])(X))
    assert mg.jacrev(lambda p: X)({}) == {}


def test_complex_numbers_are_refused_as_in_torch_func():
    real, complex_ = torch.randn(2), torch.randn(2, dtype=torch.complex64)
    for name in ("jacrev", "jacfwd"):
        with pytest.raises(mg.GraphError, match=f"{name}: Expected all outputs to be real"):
            getattr(mg, name)(lambda x: x * 1j)(real)
        with pytest.raises(mg.GraphError, match=f"{name}: Expected all inputs to be real"):
            getattr(mg, name)(lambda x: x.abs())(complex_)


def test_options_are_checked():
    for call in (lambda: mg.jacrev(f, chunk_size=0), lambda: mg.jacfwd(f, randomness="sometimes")):
        for kind in (ValueError, mg.GraphError):
            with pytest.raises(kind):
                call()


def test_all_rows_come_at_once():
    """300 rows one by one take 300 runs of the backward half."""
    weight = torch.randn(300, 100, dtype=torch.float64)
    g = lambda x: torch.tanh(weight @ x)  # noqa: E731
    x, jacobian, by_rows = torch.randn(100, dtype=torch.float64), mg.jacrev(g), mg.jacrev(g, chunk_size=1)

    def seconds(function):
        function(x)
        start = time.perf_counter()
        function(x)
        return time.perf_counter() - start

    assert min(seconds(jacobian) for _ in range(3)) < min(seconds(by_rows) for _ in range(3)) / 2
