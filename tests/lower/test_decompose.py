"""Operators taken apart compute what the whole does, and draw what it draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from memograd import ops
from memograd.lower.decompose import parts
from memograd.lower.lower import lower
from memograd.pipeline import capture, differentiate

aten = torch.ops.aten


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 4, 3, 2)])
def test_batch_norm_in_training(shape: tuple[int, ...], affine: bool) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    norm = kind(3, affine=affine, momentum=0.3).double()
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    graph = lower(differentiate(capture(lambda x, w: (norm(x) * w).sum(), x.requires_grad_(), weight)))
    apart = parts(graph)
    left = {n.target for n in apart.nodes}
    assert not left & {aten._native_batch_norm_legit_functional.default, aten.native_batch_norm_backward.default}
    flat = [t.detach() for t in graph.bind((x, weight), {})]
    for ours, theirs in zip(apart.function(*flat), graph.function(*flat), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("whole", [True, False])
def test_batch_norm_in_half_precision(whole: bool) -> None:
    """Dtypes are what they were; sums are formed in single precision, as PyTorch's kernel forms them."""
    norm = nn.BatchNorm2d(3).bfloat16() if whole else nn.BatchNorm2d(3)
    x = 3 + torch.randn(16, 3, 9, 9)
    weight = torch.randn(16, 3, 9, 9)
    graph = lower(differentiate(capture(lambda x, w: (norm(x.bfloat16()).float() * w).sum(), x, weight)))
    apart = parts(graph)
    assert [n.meta["val"].dtype for n in apart.results] == [n.meta["val"].dtype for n in graph.results]
    flat = [t.detach() for t in graph.bind((x, weight), {})]
    for ours, theirs in zip(apart.function(*flat), graph.function(*flat), strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < 0.02


def test_batch_norm_in_evaluation_is_left_alone() -> None:
    norm = nn.BatchNorm2d(3).eval()
    graph = lower(capture(norm, torch.randn(4, 3, 5, 5)))
    assert [n.target for n in parts(graph).nodes] == [n.target for n in graph.nodes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_are_drawn_as_booleans_and_are_the_same(dtype: torch.dtype) -> None:
    graph = lower(capture(lambda x: nn.functional.dropout(x, 0.3), torch.randn(37, 11, dtype=dtype)))
    apart = parts(graph)
    drawn = [n.meta["val"].dtype for n in apart.nodes if n.target is ops.bernoulli]
    assert drawn == [torch.bool]
    x = torch.randn(37, 11, dtype=dtype)
    results: list[Any] = []
    for function in (apart.function, graph.function):
        torch.manual_seed(3)
        results.append((*function(x), torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_constants_do_not_keep_what_they_are_like() -> None:
    apart = parts(lower(capture(lambda x: torch.ones_like(x.sin()), torch.randn(3, 4))))
    assert not any(n.target is aten.ones_like.default for n in apart.nodes)
    assert torch.equal(apart.function(torch.randn(3, 4))[0], torch.ones(3, 4))


def test_layer_norm_in_half_precision_has_statistics_in_single() -> None:
    """ATen returns them in single precision while its shape functions say half: a kernel would misread them."""
    norm = nn.LayerNorm(32)

    def program(x: Any, w: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            y = norm(x.bfloat16()).float()
        return (y * w).sum()

    x, weight = torch.randn(64, 32), torch.randn(64, 32)
    graph = lower(differentiate(capture(program, x, weight)))
    apart = parts(graph)
    left = {n.target for n in apart.nodes}
    assert not left & {aten.native_layer_norm.default, aten.native_layer_norm_backward.default}
    flat = [t.detach() for t in graph.bind((x, weight), {})]
    for ours, theirs in zip(apart.function(*flat), graph.function(*flat), strict=True):
        assert ours.dtype == theirs.dtype and (ours - theirs).norm() < 0.02 * theirs.norm()
