"""A fused kernel is its text: what it computes, of which geometry, and whether it is the same as another."""

from __future__ import annotations

import pytest
import torch

from memograd.errors import BackendError
from memograd.graph import kernels
from memograd.graph.kernels import Kernel, fused

BODY = '(x0: "float32[3, 5]", x1: "float32[3, 1]"):\n    mul = torch.mul(x0, x1)\n    return (mul, torch.exp(mul))\n'


def test_equal_texts_are_one_kernel() -> None:
    assert Kernel(BODY, "mul") == Kernel(BODY, "mul") and len({Kernel(BODY, "mul"), Kernel(BODY, "mul")}) == 1
    assert Kernel(BODY.replace("3, 5", "3, 7"), "mul") != Kernel(BODY, "mul"), "other operands, another kernel"


def test_a_compiled_kernel_computes_its_text() -> None:
    kernel = Kernel(BODY, "mul_exp")
    x, y = torch.randn(3, 5), torch.randn(3, 1)
    kernel.compile([x, y])
    product, exponential = kernel(x, y)
    torch.testing.assert_close((product, exponential), (x * y, (x * y).exp()))
    assert not {t.untyped_storage().data_ptr() for t in (product, exponential)} & {x.data_ptr(), y.data_ptr()}
    with pytest.raises(AssertionError, match=r"size|stride"):  # Inductor's own check: never a silent wrong number
        kernel(torch.randn(3, 10)[:, ::2], y)


def test_what_cannot_be_compiled_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, operands: object, options: object) -> None:
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(kernels, "inductor_function", broken)
    with pytest.raises(BackendError, match=r"fused_sub_.* no compiler here$"):
        Kernel('(x0: "float32[2]"):\n    return (torch.sub(x0, 1),)\n', "sub").compile([torch.ones(2)])


def test_a_printed_kernel_runs_as_it_is_where_nothing_was_compiled() -> None:
    def fused_that_nobody_compiled(x0):
        return (torch.sin(x0),)

    assert fused(fused_that_nobody_compiled) is fused_that_nobody_compiled
