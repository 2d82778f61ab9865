"""Tensors that a program makes of numbers or borrows, and modes that it leaves on."""

import copy

import numpy as np
import pytest
import torch
from torch import nn, optim

import memograd as mg

X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)

MADE = {
    "tensor": lambda x: torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    "as_tensor": lambda x: torch.as_tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0, 3.0]),
    "DoubleTensor": lambda x: torch.DoubleTensor([1.0, 2.0, 3.0]),
    "zeros": lambda x: torch.zeros(3, dtype=torch.float64),
    "copied": lambda x: copy.deepcopy(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)),
}


def writes(make):
    def f(x):
        out = make(x)
        out += x.sin()
        out *= x
        return (out * out).sum()

    return f


@pytest.mark.parametrize("name", MADE)
def test_what_a_program_makes_and_writes_to_is_new_at_each_call(name):
    f = writes(MADE[name])
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(x), x)
    gradient = mg.grad(f)
    for _ in range(3):
        torch.testing.assert_close(gradient(X), expected)


def test_a_loss_summed_into_a_tensor_of_a_number_trains():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(X.clone())

        def forward(self, x):
            loss = torch.tensor(0.0, dtype=torch.float64)
            for t in range(3):
                loss += (self.w[t] - x[t]) ** 2
            return loss

    ours, theirs = Sums(), Sums()
    step = mg.TrainStep(ours, None, optim.SGD(ours.parameters(), lr=0.1))
    optimizer = optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = theirs(2 * X)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(2 * X), loss.detach())
    torch.testing.assert_close(ours.w, theirs.w)


def test_a_result_made_of_numbers_is_the_callers():
    gradient = mg.grad(lambda x: (x.sum(), torch.tensor([1.0, 2.0])), has_aux=True)
    for _ in range(2):
        result = gradient(X)[1]
        torch.testing.assert_close(result, torch.tensor([1.0, 2.0]))
        result.add_(1)


def test_a_captured_tensor_is_written_to_at_each_call():
    total = torch.zeros(3, dtype=torch.float64)

    def f(x):
        total.add_(1)
        return (x * total).sum()

    gradient = mg.grad(f)
    torch.testing.assert_close(gradient(X), torch.full_like(X, 1.0))
    torch.testing.assert_close(gradient(X), torch.full_like(X, 2.0))


@pytest.mark.parametrize("make", [torch.from_numpy, torch.as_tensor, torch.from_dlpack, torch.frombuffer])
def test_writes_to_borrowed_memory_are_refused(make):
    """The array may be new at each call, or the user's: in a graph the two are one."""
    array = np.zeros(3)
    more = {"dtype": torch.float64} if make is torch.frombuffer else {}
    with pytest.raises(mg.CaptureError, match=r"test_tracer.py.*NumPy.*clone"):
        mg.grad(writes(lambda x: make(array, **more)))(X)
    read = mg.grad(lambda x: (x * (make(array, **more) + 2)).sum())(X)
    torch.testing.assert_close(read, torch.full_like(X, 2.0))


def test_a_first_attempt_that_fails_leaves_grad_mode_as_it_was():
    """The mask needs values, so that the program runs a second time."""

    def f(x):
        y = x * 3
        torch.set_grad_enabled(False)
        y[x > 0] += 1
        torch.set_grad_enabled(True)
        return y.sum()

    torch.testing.assert_close(mg.grad(f)(X), torch.full_like(X, 3.0))
    assert torch.is_grad_enabled()


def test_fresh_memory_is_the_programs_where_it_is_captured_on_values():
    """It is no tensor of the user's that the transform would write to."""

    def f(x):
        y = torch.empty_strided((3,), (1,), dtype=x.dtype)
        y[x > 0] = x[x > 0] ** 2
        y[x <= 0] = 0
        return y.sum()

    gradient = mg.grad(f)
    for _ in range(2):
        torch.testing.assert_close(gradient(X), torch.where(X > 0, 2 * X, 0.0))


def test_an_operator_that_is_given_functions_is_refused_by_name():
    """Where a capture failed the program was run again in plain PyTorch, which was said to fail, too."""
    f = lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)).sum()  # noqa: E731
    with pytest.raises(mg.CaptureError, match="calls cond"):
        mg.capture(f, torch.randn(3))
