"""Grids of affine maps against torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from witness import check


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("size", [(2, 1, 3, 4), (2, 3, 2, 3, 4)], ids=str)
def test_affine_grid(size, align):
    dims = len(size) - 2
    theta = torch.randn(2, dims, dims + 1, dtype=torch.float64)
    check(lambda t: F.affine_grid(t, size, align_corners=align).sin(), theta)
