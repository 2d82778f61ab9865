"""The flag of a step. Witness: torch.isfinite."""

from __future__ import annotations

import math

import pytest
import torch
from not_finite import Event

from memograd import finite
from memograd.finite import Guard, TrippedError, largest, tripping

NAN, INF = math.nan, math.inf
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, NAN, INF, -INF])
def test_one_number_that_is_not_finite_is_seen_wherever_it_is(dtype: torch.dtype, value: float) -> None:
    values = [torch.zeros(3, dtype=dtype), torch.ones((), dtype=dtype), torch.empty(0, dtype=dtype)]
    values.append(torch.full((2, 5), 2.0, dtype=dtype).t())
    values[3][3, 1] = value
    number = largest(values)
    assert bool(number.isfinite()) == all(bool(v.isfinite().all()) for v in values)
    assert number.dtype in (torch.float32, torch.float64) and number.dim() == 0


@pytest.mark.parametrize("most", [torch.finfo(torch.float64).max, 1e200])
def test_large_numbers_are_finite(most: float) -> None:
    assert largest([torch.tensor([most, -most], dtype=torch.float64), torch.tensor([3e38])]).isfinite()


def test_the_number_is_no_less_than_the_largest() -> None:
    values = [torch.randn(7, 3), 4 * torch.randn(5)]
    assert largest(values) >= max(v.abs().max() for v in values)


def test_it_ends_a_run_only_where_that_is_asked() -> None:
    assert not largest([torch.tensor([NAN])]).isfinite()
    with tripping():
        assert largest([torch.ones(2)]).isfinite()
        with pytest.raises(TrippedError):
            largest([torch.tensor([NAN])])
    assert not largest([torch.tensor([NAN])]).isfinite()


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr(finite.torch, "Event", Event)
    monkeypatch.setattr(finite, "_PINNED", False)
    monkeypatch.setattr(finite, "_on_the_host", lambda tensor: tensor.dim() == 1)
    return Guard(torch.device("cpu"))


def test_on_an_accelerator_nothing_is_written_from_the_bad_step_on_and_counters_go_back(guard: Guard) -> None:
    weight, counter = torch.zeros(2, 2), torch.zeros(1)
    for step, size in enumerate([1.0, NAN, 1.0], 1):
        assert guard.tripped(late=1) is None
        guard.about(torch.tensor(size)).write([weight], [torch.full((2, 2), float(step))])
        guard.write([counter], [torch.tensor([float(step)])])
    assert guard.tripped(late=1) == 2
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(counter, torch.ones(1))
    guard.about(torch.tensor(1.0)).write([weight], [torch.full((2, 2), 9.0)])  # and it goes on
    assert torch.equal(weight, torch.full((2, 2), 9.0))
    assert guard.tripped() is None
