"""Segments and grouped matrix products against torch.autograd."""

import pytest
import torch
from witness import check


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("axis", [0, 1])
def test_segment_reduce(reduce, axis):
    x = torch.rand(5, 5, dtype=torch.float64) + 0.5
    lengths = torch.tensor([2, 3]).expand(1 if axis == 0 else 5, 2)
    lengths = lengths[0].clone() if axis == 0 else lengths.contiguous()
    check(lambda x: torch.segment_reduce(x, reduce, lengths=lengths, axis=axis).sin(), x, second=False)


def test_segments_by_offsets():
    x = torch.rand(5, 2, dtype=torch.float64)
    offsets = torch.tensor([0, 1, 5])
    check(lambda x: torch.segment_reduce(x, "sum", offsets=offsets, initial=1.0).sin(), x, second=False)


@pytest.mark.parametrize(
    "a, b", [((32, 16), (2, 16, 8)), ((2, 8, 16), (16, 32)), ((8, 32), (32, 8)), ((2, 8, 16),) * 2]
)
def test_grouped_mm(a, b):
    if len(a) == len(b) == 3:
        b = (2, 16, 8)
    offs = None if len(a) == len(b) == 3 else torch.tensor([16, 32], dtype=torch.int32)
    left, right = torch.randn(a).bfloat16(), torch.randn(b).bfloat16()
    check(lambda x, z: torch.nn.functional.grouped_mm(x, z, offs=offs), left, right, rtol=2e-2, atol=2e-2)
