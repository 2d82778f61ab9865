"""The largest absolute value among many tensors is PyTorch's, whatever their dtype and however they lie in memory."""

import math

import pytest
import torch

from memograd import largest_number as module
from memograd.largest_number import largest_number

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


def lying(x):
    """The same numbers in several ways of lying in memory."""
    gaps = torch.zeros(2 * x.numel(), dtype=x.dtype)[::2].view(x.shape)
    return [x, x.mT, x.clone(memory_format=torch.channels_last), x[:1].expand(3, *x.shape[1:]), gaps.copy_(x), -x]


def largest_of(tensors):
    """PyTorch's."""
    parts = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
    return max((p.double().abs().max().item() for p in parts if p.numel()), default=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_that_of_pytorch(dtype):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(7).to(dtype)
    for tensors in ([x], lying(x), [x[:0], torch.tensor(-9, dtype=dtype)], [x.conj(), x.real * 1e-3], [x * 0]):
        assert largest_number(tensors) == largest_of(tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, -math.nan])
def test_what_is_not_finite_is_seen_wherever_it_lies(dtype, bad):
    for at in range(6):
        ones = torch.ones(1, 2, 1, 3, dtype=dtype)
        ones.view(-1)[at] = bad
        for x in lying(ones):
            found = largest_number([torch.ones(3), x, torch.ones((), dtype=torch.float64)])
            assert math.isnan(found) if math.isnan(bad) else found == math.inf


def test_the_largest_finite_numbers_are_finite_and_the_smallest_are_seen():
    for dtype in DTYPES[:4]:
        info = torch.finfo(dtype)
        assert largest_number([torch.tensor([info.min, 1.0], dtype=dtype)]) == info.max
        assert largest_number([torch.tensor([0.0, -info.smallest_normal], dtype=dtype)]) == info.smallest_normal


def test_sparse_gradients_and_other_dtypes():
    sparse = torch.sparse_coo_tensor([[1, 1]], torch.tensor([3.0, 2.0]), (4,), check_invariants=False)
    assert largest_number([sparse]) == 5.0
    assert largest_number([torch.tensor([-3, 2])]) == 3.0 and largest_number([]) == 0.0


def test_without_a_compiler_it_is_a_bound_that_is_finite_if_they_are(monkeypatch):
    monkeypatch.setattr(module, "_function", lambda: None)
    x = torch.tensor([3e30, 4e30])  # whose squares overflow
    assert largest_number([x, torch.ones(2)]) == x[1].item()
    assert 3.0 <= largest_number([torch.tensor([-3.0, 1.0])]) < 4.0
    assert math.isnan(largest_number([x, torch.tensor([math.nan])]))
    assert largest_number([torch.tensor([1.0, -math.inf], dtype=torch.float16), x]) == math.inf
