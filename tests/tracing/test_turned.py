"""``t_``, ``unsqueeze_`` and the like change a tensor, and not the memory or the other views of it."""

import pytest
import torch
from idioms.agreement import check_function, check_step
from torch import nn

import memograd as mg
from memograd.errors import CaptureError

C, D = torch.linspace(-1, 2, 4, dtype=torch.float64), torch.linspace(1, 3, 16, dtype=torch.float64).view(4, 4).cos()
X = torch.linspace(-2, 1, 16, dtype=torch.float64).view(4, 4).sin()


def a_view_made_before(x):
    y = x * 1
    row = y[0]
    y.t_()
    y.mul_(D)
    return (row * C).sum()


def written_through_a_view_made_before(x):
    y = x * 1
    row = y[0]
    y.transpose_(0, 1)
    row.mul_(C)
    return (y**2 * D).sum()


def a_view_of_one_row(x):
    y = x * 1
    row = y[1]
    row.unsqueeze_(1)
    row.mul_(C[:, None])
    return (y**2 * D).sum()


def a_view_whose_base_is_written(x):
    y = x * 1
    row = y[1]
    row.unsqueeze_(0)
    y.mul_(D)
    return (row**2 * D).sum()


def a_view_turned_twice(x):
    y = x * 1
    view = y.t()
    view.t_()
    view[0] *= C
    return (y**2 * D).sum()


def written_through_detach(x):
    y = x * 1
    apart = y.detach()
    y.t_()
    apart[0].mul_(2)
    return (y**2 * D).sum()


def strided(x):
    y = x * 1
    y.as_strided_((4,), (5,))
    y.mul_(C)
    return (y * C).sum()


def values_decide(x):
    y = x * 1
    row = y[0]
    y.t_()
    if y.sum() < 100:
        y.mul_(D)
    return (row * C).sum() + (y[y > 0] ** 2).sum()


@pytest.mark.parametrize(
    "f",
    [
        a_view_made_before,
        written_through_a_view_made_before,
        a_view_of_one_row,
        a_view_whose_base_is_written,
        a_view_turned_twice,
        written_through_detach,
        strided,
        values_decide,
    ],
)
def test_other_views_stay_what_they_are(f):
    check_function(f, [X])


def test_a_square_argument_that_is_turned_has_the_numbers_it_has_in_pytorch():
    def f(x, a):
        with torch.no_grad():
            a.t_()
        return (x * a).sum()

    theirs, ours = D.clone(), D.clone()
    expected = f(X, theirs)
    assert torch.equal(mg.value_and_grad(f)(X, ours)[0], expected) and torch.equal(ours, theirs)


def test_a_parameter_that_is_turned_trains_as_in_pytorch():
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(D.clone())

        def forward(self, x):
            with torch.no_grad():
                self.w.t_()
            return (x @ self.w).square().sum() * 0.1

    check_step(Turning(), X)


@pytest.mark.parametrize("turn", [lambda a: a.unsqueeze_(0), lambda a: (a[0], a.t_())])
def test_an_argument_of_another_shape_and_one_with_views_are_refused(turn):
    def f(x, a):
        turn(a)
        return (x * a).sum()

    with pytest.raises(CaptureError, match=r"which returns? a view"):
        mg.grad(f)(X, D.clone())
