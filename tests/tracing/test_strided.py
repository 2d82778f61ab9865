"""``as_strided`` of a view shows the memory behind it, also what the view does not, and after a write."""

import pytest
import torch
from idioms.agreement import check_function

import memograd as mg
from memograd.errors import CaptureError

F64 = torch.float64
X = torch.tensor([[0.3, -1.2, 2.0], [1.1, 0.4, -0.6]], dtype=F64)
W = torch.tensor([0.5, -1.5, 2.0], dtype=F64)


def numbers_of(*tensors):
    return sum((t.sin() * torch.arange(1.0, 1 + t.numel()).double().view(t.shape)).sum() for t in tensors)


def only_read(x, w):
    y = x * w
    return numbers_of(y, y[:, 0].as_strided((3,), (2,)))


def the_base_is_written(x, w):
    y = x * 1
    odd = y[:, 0].as_strided((3,), (2,))
    y.mul_(w[0])
    return numbers_of(y, odd)


def it_is_written(x, w):
    y = x * 1
    part = y[:, 1].as_strided((2,), (2,))
    part.mul_(w[0])
    return numbers_of(y, part)


def in_front_of_the_view(x, w):
    y = x * 1
    square = y[1].as_strided((2, 2), (1, 2), 0)
    square.mul_(w[0])
    return numbers_of(y, square)


def of_a_turned_view(x, w):
    y = x * 1
    odd = y.t().as_strided((3,), (2,))
    odd.mul_(w)
    return numbers_of(y, odd)


def of_a_detached_view(x, w):
    y = x * 1
    odd = y.detach()[1].as_strided((3,), (2,), 0)
    y.mul_(w)
    odd.mul_(2)
    return numbers_of(y, odd)


def in_place(x, w):
    y = x * 1
    odd = y[:, 0]
    odd.as_strided_((3,), (2,))
    y.mul_(w[0])
    return numbers_of(y, odd)


def memory_that_was_written_otherwise(x, w):
    y = x * 1
    y.t().copy_(torch.outer(w, w[:2]))
    odd = y.as_strided((3,), (2,))
    y.mul_(w)
    return numbers_of(y, odd)


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize(
    "f",
    [
        only_read,
        the_base_is_written,
        it_is_written,
        in_front_of_the_view,
        of_a_turned_view,
        of_a_detached_view,
        in_place,
        memory_that_was_written_otherwise,
    ],
)
def test_what_as_strided_shows_of_the_memory_is_that_of_pytorch(f, values):
    """Wrong values or gradients without a word, where it was called on a view. First derivatives: where a view does not
    show what is written, autograd's second ones leave that out."""

    def looking(x, w):
        return f(x, w) if x.sum() < 100 else x.sum()

    check_function(looking if values else f, [X, W], ways=("grad",))


def test_memory_that_cannot_be_followed_is_refused():
    def f(x, w):
        y = x.t() * 1
        odd = y[0].as_strided((2,), (1,))
        y.mul_(w[0])
        return odd.sum()

    with pytest.raises(CaptureError, match="call as_strided on a contiguous tensor"):
        mg.grad(f)(X, W)
