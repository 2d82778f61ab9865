"""``t_``, ``unsqueeze_`` and the like change a tensor, and not the memory or the other views of it."""

import pytest
import torch
from idioms.agreement import check_function, check_step
from torch import nn
from torch.utils.checkpoint import checkpoint

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


SEEN = {
    "row": lambda y: y[0],
    "flat": lambda y: y.view(-1)[1:],
    "columns": lambda y: y[..., 1:],
    "turned": lambda y: y.t(),
    "detached": lambda y: y.detach(),
}
TURNS = {
    "transpose_": lambda y: y.transpose_(0, 1),
    "unsqueeze_": lambda y: y.unsqueeze_(-1),
    "three times": lambda y: y.unsqueeze_(0).squeeze_(0).t_(),
    "by its operator": lambda y: torch.ops.aten.t_.default(y),
}
W = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)


def numbers_of(*tensors):
    return sum((t.sin() * torch.arange(1.0, 1 + t.numel()).double().view(t.shape)).sum() for t in tensors)


def read_after(y, view, w):
    return numbers_of(y, view)


def written_after(y, view, w):
    view.mul_(2)
    y[0] = w[2]
    view.add_(w[0])
    y.mul_(w[1])
    return numbers_of(y, view)


def by_gradients_inside(f):
    """``f`` with a derivative of its own, that autograd takes while the program runs."""

    def outer(x, w):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(f(x, w), x, create_graph=True)
        return (gradient**2 * w[0]).sum()

    return outer


def check(x, seen, turned, after, of=lambda y, view: y):
    """A program that looks at ``y``, turns it or its view, and goes on ``after`` that."""

    def f(x, w):
        y = x * 1
        view = seen(y)
        turned(of(y, view))
        return after(y, view, w)

    check_function(f, [x, W], ways=("grad",))
    check_function(by_gradients_inside(f), [x, W], ways=("grad",))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("turned", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_a_tensor_that_has_views_is_turned_as_by_autograd(seen, turned):
    """Autograd makes a view again of what it looks at, by the operators that led there where a tensor has no data: on a
    tensor that was turned they led nowhere, on a square one elsewhere without a word."""
    check(X.flatten()[:6].view(2, 3), seen, turned, written_after)


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_a_tensor_that_has_views_is_turned_and_read(seen):
    check(X[:3, :3], seen, TURNS["transpose_"], read_after)
    check(X.flatten()[:6].view(2, 3), seen, TURNS["transpose_"], read_after)


@pytest.mark.parametrize("seen", [see for name, see in SEEN.items() if name != "detached"])
@pytest.mark.parametrize("turned", [lambda v: v.unsqueeze_(0), lambda v: v.transpose_(0, -1)])
def test_a_view_is_turned_as_by_autograd(seen, turned):
    check(X[:3, :3], seen, turned, written_after, of=lambda y, view: view)


def test_a_turned_tensor_is_itself_for_whoever_holds_it():
    def f(x, w):
        y = x * 1
        held, view = {"y": y, y: 1}, y[0]
        assert y.t_() is y and held["y"] is y and held[y] == 1
        assert y.shape == (3, 2) and y.dim() == len(y.size()) == 2 and y.stride() == (1, 3) and len(y) == 3
        y.mul_(w[0])
        inner = mg.grad(lambda a: (a.sin() * torch.arange(6.0).double().view(3, 2)).sum())(y)
        of_closure = mg.grad(lambda a: (a * y.cos()).sum())(inner)
        stacked = torch.stack([y, inner, of_closure])
        torch.autograd.backward([y * 1], [torch.ones(3, 2).double()], retain_graph=True, inputs=[y])
        return stacked.square().sum() + view.sum() + checkpoint(lambda a: a.exp() * y, y, use_reentrant=False).sum()

    def plain(x, w):
        y = x * 1
        view = y[0]
        z = y.t() * w[0]
        inner = z.cos() * torch.arange(6.0).double().view(3, 2)
        stacked = torch.stack([z, inner, z.cos()])
        return stacked.square().sum() + view.sum() * w[0] + (z.exp() * z).sum()

    check_function(f, [X.flatten()[:6].view(2, 3), W], plain=plain)


def test_a_turned_tensor_that_is_returned_or_left_behind_is_turned():
    left = {}

    def f(x):
        y = x * 1
        view = y[0]
        y.t_()
        view.mul_(2)
        left.update(y=y, view=view)
        return y, view

    x = X.flatten()[:6].view(2, 3)
    graph = mg.capture(f, x)
    expected = (torch.cat([2 * x[:1], x[1:]]).t(), 2 * x[0])
    assert all(map(torch.equal, graph(x), expected))
    assert torch.equal(left["y"], expected[0]) and torch.equal(left["view"], expected[1])


def test_what_cannot_be_followed_is_refused():
    class Turning(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                y = x * 1
                view = y[0]
                y.t_()
            return (y * view.sum()).sum()

        @staticmethod
        def backward(ctx, g):
            return g

    def in_a_hook(x):
        y, z = x * 1, x * 2
        view = y[0]
        y.t_()
        z.register_hook(lambda g: g * y)
        return (z * view).sum()

    def fewer_elements(x):
        y = x * 1
        view = y[0]
        y.as_strided_((2,), (2,))
        return y.sum() + view.sum()

    for f in (Turning.apply, in_a_hook, fewer_elements):
        with pytest.raises(CaptureError, match=r"which returns? a view"):
            mg.grad(f)(X)


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
