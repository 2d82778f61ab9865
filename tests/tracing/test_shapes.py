"""Shapes that we state for operators whose shape function gives up, or refuses what the kernel takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import memograd as mg
from memograd.pipeline import capture_for, differentiate
from memograd.verify.layouts import unlike

T = torch.Tensor


def random(*shape: int) -> T:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


ENDS = torch.tensor([8, 24], dtype=torch.int32)

# which of the two matrices, and of the result, have one part for each group
FORMS: dict[str, tuple[T, T, T | None]] = {
    "rows of one belong to groups": (random(24, 16), random(2, 16, 8), ENDS),
    "columns of the other": (random(2, 8, 16), random(16, 24), ENDS),
    "what is summed over": (random(8, 24), random(24, 8), ENDS),
    "both in parts": (random(2, 8, 16), random(2, 16, 8), None),
    "a transposed matrix": (random(24, 16), random(2, 8, 16).mT, ENDS),
    "rows that are padded": (random(24, 16), random(2, 6, 16).mT, ENDS),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_matrix_products_for_each_group(form: str, dtype: torch.dtype) -> None:
    a, b, ends = FORMS[form]
    a, b = a.to(dtype), b.to(dtype)

    def product(a: T, b: T) -> tuple[T, ...]:
        return (torch.nn.functional.grouped_mm(a, b, offs=ends),)

    graph = capture_for(product, (a, b), {})
    assert not list(unlike(graph, graph.bind((a, b), {})))
    if form == "rows that are padded":  # whose gradient autograd's own kernel refuses
        return
    joint = differentiate(graph, cotangents="output")
    (y,) = product(leaf := a.clone().requires_grad_(), other := b.clone().requires_grad_())
    g = torch.ones_like(y) / 3
    assert not list(unlike(joint, joint.bind((a, b), {}, (g,))))
    expected = torch.autograd.grad(y, (leaf, other), g)
    torch.testing.assert_close(mg.vjp(product, a, b)[1]((g,)), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        (random(24, 16).double(), random(2, 16, 8).double(), ENDS),
        (random(24, 16), random(2, 16, 8)),
        (random(2, 8, 16), random(2, 16, 8), ENDS),
        (random(24, 16), random(3, 16, 8), ENDS),
        (random(24, 16), random(2, 8, 8), ENDS),
    ],
)
def test_what_the_kernel_refuses_is_refused_in_its_words(arguments: Any) -> None:
    with pytest.raises(RuntimeError) as theirs:
        torch._grouped_mm(*arguments)
    with pytest.raises(RuntimeError) as ours:
        mg.capture(torch._grouped_mm, *arguments)
    assert str(ours.value) == str(theirs.value)


def test_fake_tensors_of_others_are_left_alone() -> None:
    """``torch.compile`` relies on what its shape functions refuse."""
    with FakeTensorMode(), pytest.raises(RuntimeError, match="BF16"):
        torch._grouped_mm(torch.empty(24, 16), torch.empty(2, 16, 8), torch.empty(2, dtype=torch.int32))
