"""The _foreach operators against torch.autograd."""

import pytest
import torch
from witness import check

SEEDED = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 3, generator=SEEDED).double() + 0.5, torch.rand(2, generator=SEEDED).double() + 0.5
UNARY = "abs acos asin atan cos cosh erf erfc exp expm1 frac lgamma log log10 log1p log2 neg reciprocal rsqrt sigmoid"
UNARY += " sin sinh sqrt tan tanh norm max"
UNARY += " clone" * hasattr(torch, "_foreach_clone")  # PyTorch 2.11 has none
TWO_LISTS = "add sub mul div maximum minimum clamp_min clamp_max"


@pytest.mark.parametrize("name", UNARY.split())
def test_of_one_list(name):
    function = getattr(torch, f"_foreach_{name}")
    check(lambda a, b: function([a, b, a * b[0]]), A / 2, B / 2)


@pytest.mark.parametrize("name", TWO_LISTS.split())
def test_of_a_list_and_what_it_meets(name):
    function = getattr(torch, f"_foreach_{name}")
    check(lambda a, b, c, d: function([a, b], [c, d]), A, B, 1.1 * A, 0.9 * B)
    check(lambda a, b: function([a, b], 0.8), A, B)
    check(lambda a, b: function([a, b], [0.8, 0.9]), A, B)


def test_of_three_lists():
    check(lambda a, b: torch._foreach_addcmul([a, b], [a.sin(), b], [a, b.cos()], value=0.3), A, B)
    check(lambda a, b: torch._foreach_addcdiv([a, b], [a.sin(), b], [a, b.cos()], [0.3, 0.4]), A, B)
    check(lambda a, b: torch._foreach_lerp([a, b], [a.sin(), b * b], 0.3), A, B)


def test_powers_and_norms_of_lists_have_the_gradients_of_autograd():
    check(lambda a, b: torch._foreach_pow([a, b], 3.0), A, B)
    check(lambda a, b: torch._foreach_pow([a, b], [b[0], a]), A[0, :2], B)
    check(lambda a, b: torch._foreach_pow(2.0, [a, b]), A, B)
    check(lambda a, b: torch._foreach_norm([a, b], 3), A, B)


def test_clipping_inside_a_differentiated_program():
    def clipped(a, b):
        parts = [a.sin(), b * b]
        norm = torch.nn.utils.get_total_norm(parts)
        return torch._foreach_mul(parts, 1.0 / norm)

    check(clipped, A, B)
