from __future__ import annotations

import time

import pytest

from memograd import clock


def test_the_best_of_all_trials_counts() -> None:
    waits = iter([0.02, 0.001, 0.02])
    assert 0.001 <= clock.seconds(lambda: time.sleep(next(waits)), trials=3) < 0.02
    with pytest.raises(StopIteration):  # all three ran
        next(waits)


def test_long_calls_are_repeated_less_often() -> None:
    calls = []
    clock.seconds(lambda: (calls.append(1), time.sleep(0.01)), trials=50, enough=0.015)
    assert len(calls) == 2


def test_an_operator_costs_a_call_and_its_traffic() -> None:
    assert clock.modelled(0, "cpu") == clock.OVERHEAD
    assert clock.modelled(1 << 30, "cpu") > 0.1 > clock.modelled(1 << 30, "cuda") > clock.OVERHEAD
