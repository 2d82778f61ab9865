"""An input for each use: what comes back to them, in the order in which it comes, is what comes back to the value."""

from __future__ import annotations

import torch

from memograd.frontend.uses import each_use
from memograd.graph.graph import Graph
from memograd.pipeline import capture, differentiate

X = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
Y = torch.linspace(2, 3, 6, dtype=torch.float64).requires_grad_()


def f(x, y):
    return x * x + (x * y).sin()


def graph() -> Graph:
    return capture(f, X, Y)


def test_gradients_of_the_uses_add_up_to_that_of_the_value_the_last_use_first():
    apart, positions = each_use(graph(), [True, True])
    assert positions == [0, 0, 0, 1]
    given = [t.detach() for t in (X, X, X, Y)]
    names = [i.name for i in differentiate(apart, cotangents="output").inputs]
    assert len(names) == 5
    inputs = [t.clone().requires_grad_() for t in given]
    (out,) = apart.function(*inputs)
    of_each = torch.autograd.grad(out.sum(), inputs)
    expected = torch.autograd.grad(f(X, Y).sum(), [X, Y])
    torch.testing.assert_close([sum(of_each[:3]), of_each[3]], [*expected])
    torch.testing.assert_close(of_each[0], (Y * (X * Y).cos()).detach())  # computed last
    torch.testing.assert_close(of_each[1:3], (X.detach(), X.detach()))


def test_what_is_not_to_be_taken_apart_and_what_is_read_very_often_stays_one_input():
    assert each_use(graph(), [False, True])[1] == [0, 1]
    assert each_use(graph(), [])[1] == [0, 1]
    often = capture(lambda x: sum(x * k for k in range(2, 9)), X)
    assert each_use(often, [True])[1] == [0]


def test_an_input_that_is_a_result_stays_one():
    both = capture(lambda x: (x, x * x), X)
    assert both.results[0].op == "placeholder"
    assert each_use(both, [True])[1] == [0]
