"""Backward operators taken apart: to the last bit what autograd computes where somebody goes on from its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from memograd.lower.differentiable import differentiable
from memograd.pipeline import capture

aten = torch.ops.aten


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_as_autograd_s(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(2, 1000, dtype=dtype)
    graph = capture(lambda g, x: aten.silu_backward(g, x), g, x)
    apart = differentiable(graph)
    assert aten.silu_backward.default not in {n.target for n in apart.nodes}
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(F.silu(leaf), leaf, g, create_graph=True)
    assert torch.equal(apart.function(g, x)[0], theirs)


def test_a_graph_without_them_stays() -> None:
    graph = capture(torch.sin, torch.ones(3))
    assert differentiable(graph) is graph
