"""Operators that are recorded in ways of their own. Witness: torch.autograd."""

import pytest
import torch

import memograd as mg

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)

OF_NUMBERS = {
    "div": lambda n: torch.div(n, 2, rounding_mode="trunc"),
    "true_divide": lambda n: torch.true_divide(n, 2),
    "floor_divide": lambda n: torch.floor_divide(n, 2),
    "add": lambda n: torch.add(n, 1.5),
    "sub": lambda n: torch.sub(n, 1, alpha=2),
    "mul": lambda n: torch.mul(n, True),
}


@pytest.mark.parametrize("made", OF_NUMBERS.values(), ids=OF_NUMBERS)
def test_an_operator_of_numbers_only_is_the_tensor_that_pytorch_makes(made):
    def f(x):
        factor = made(x.shape[0])
        return (x**2 * factor).sum() + x[: int(factor)].sum()  # the program may look: it is the same each time

    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(mg.grad(f)(X), expected)
    torch.testing.assert_close(mg.capture(f, X)(X), f(X))
