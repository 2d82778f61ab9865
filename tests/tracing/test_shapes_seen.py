"""What is remembered of shapes is what PyTorch says of them, and only of calls that always mean the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memograd._torch import FAKE, is_fake, quiet
from memograd.tracing import shapes_seen
from memograd.tracing.shapes_seen import result_of

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    answers: dict[Any, Any] = {}
    monkeypatch.setattr(shapes_seen, "_ANSWERS", answers)
    return answers


def geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage().nbytes()
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.storage_offset(), storage


def operands() -> dict[str, torch.Tensor]:
    with FAKE:
        whole = torch.empty(4, 3, 8, 6)
        return {
            "rows": whole,
            "channels last": whole.to(memory_format=torch.channels_last),
            "turned": torch.empty(6, 8, 3, 4).permute(3, 2, 1, 0),
            "a part": torch.empty(4, 5, 8, 6)[:, 1:4],
            "stretched": torch.empty(1, 3, 1, 6).expand(4, 3, 8, 6),
            "whole numbers": torch.empty(4, 3, 8, 6, dtype=torch.int64),
            "doubles": torch.empty(4, 3, 8, 6, dtype=torch.float64),
        }


CALLS = {
    "mul": lambda a, b: (aten.mul.Tensor, (a, b), {}),
    "add": lambda a, b: (aten.add.Tensor, (a, b), {"alpha": 2}),
    "mul by a number": lambda a, b: (aten.mul.Tensor, (a, 2.0), {}),
    "exp": lambda a, b: (aten.exp.default, (a,), {}),
    "sum": lambda a, b: (aten.sum.dim_IntList, (a, [1, 3], True), {}),
    "mean": lambda a, b: (aten.mean.default, (a.double(),), {"dtype": torch.float32}),
    "cat": lambda a, b: (aten.cat.default, ([a, b], 1), {}),
    "clone": lambda a, b: (aten.clone.default, (a,), {"memory_format": torch.contiguous_format}),
    "where": lambda a, b: (aten.where.self, (a > 0, a, b), {}),
    "zeros_like": lambda a, b: (aten.zeros_like.default, (a,), {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_second_answer_is_the_first_one(call: str, nothing_is_remembered: dict[Any, Any]) -> None:
    kinds = operands()
    for first in kinds.values():
        for second in (kinds["rows"], kinds["channels last"], kinds["whole numbers"]):
            with FAKE:
                func, args, kwargs = CALLS[call](first, second)
                fresh = func(*args, **kwargs)
                out = result_of(func, args, kwargs)
                again = result_of(func, args, kwargs)
            assert is_fake(again) and again is not out and not again.requires_grad
            assert geometry(fresh) == geometry(out) == geometry(again)
    assert any(nothing_is_remembered.values())


def test_numbers_that_are_equal_are_different_questions() -> None:
    with FAKE:
        x = torch.empty(3, dtype=torch.int64)
        dtypes = [result_of(aten.mul.Tensor, (x, n), {}).dtype for _ in range(2) for n in (1, 1.0, True)]
    assert dtypes == [torch.int64, torch.float32, torch.int64] * 2


def test_another_default_dtype_is_another_question() -> None:
    with FAKE:
        x = torch.empty(3, dtype=torch.int64)
        try:
            for dtype in (torch.float32, torch.float64, torch.float32):
                torch.set_default_dtype(dtype)
                assert result_of(aten.exp.default, (x,), {}).dtype == dtype
        finally:
            torch.set_default_dtype(torch.float32)


def test_more_memory_behind_an_operand_is_another_question() -> None:
    """Results of some operators have as much of it."""
    with FAKE:
        alone, part, source = torch.empty(3), torch.empty(100)[:3], torch.empty(2)
        calls = [
            (aten._new_zeros_with_same_feature_meta.default, (alone,), ()),
            (aten.as_strided_scatter.default, (), (source, [2], [1], 1)),
        ]
        for one in (alone, part, alone):
            for func, before, behind in calls:
                out = result_of(func, (*before, one, *behind), {})
                assert out.untyped_storage().nbytes() == one.untyped_storage().nbytes()


def test_views_are_views_each_time() -> None:
    """Also where the schema does not say so."""
    with FAKE:
        x = torch.empty(2, 6)
        for _ in range(2):
            for func, sizes in ((aten.view.default, [3, 4]), (aten._unsafe_view.default, [3, 4])):
                out = result_of(func, (x, sizes), {})
                assert out.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_numbers_that_pytorch_knows_are_computed() -> None:
    """``torch.tensor(2)`` keeps its value also without data, and what is computed of it, too."""
    with FAKE:
        two = torch.tensor(2)
        for _ in range(2):
            assert result_of(aten.add.Tensor, (two, 1), {}).item() == 3


def test_results_that_are_conjugated_lazily_are_not_remembered(nothing_is_remembered: dict[Any, Any]) -> None:
    with FAKE:
        z = torch.empty(3, dtype=torch.complex64).conj()
        for _ in range(2):
            assert not result_of(aten.mul.Tensor, (z, 2), {}).is_conj()
            assert result_of(aten.conj_physical.default, (z,), {}).dtype == torch.complex64
    assert not nothing_is_remembered


def test_what_is_refused_is_refused_again() -> None:
    with FAKE, quiet():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="reduction dim"):
                result_of(aten.mm.default, (torch.empty(2, 3), torch.empty(2, 3)), {})


def test_memory_is_bounded(nothing_is_remembered: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_seen, "_MOST", 4)
    with FAKE:
        for n in range(9):
            result_of(aten.exp.default, (torch.empty(n),), {})
    assert len(nothing_is_remembered) <= 4
