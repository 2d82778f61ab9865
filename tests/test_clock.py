from __future__ import annotations

import time

import pytest

from memograd import clock


class Hands:
    """A clock that only goes on when told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def perf_counter(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(clock, "time", hands)
    return hands


def test_the_best_of_all_trials_counts(hands: Hands) -> None:
    waits = iter([0.02, 0.001, 0.02])
    assert clock.seconds(lambda: hands.wait(next(waits)), trials=3) == pytest.approx(0.001)
    with pytest.raises(StopIteration):  # all three ran
        next(waits)


def test_long_calls_are_repeated_less_often(hands: Hands) -> None:
    calls = []
    clock.seconds(lambda: (calls.append(1), hands.wait(0.01)), trials=50, enough=0.015)
    assert len(calls) == 2


def test_time_passes() -> None:
    assert clock.seconds(lambda: time.sleep(0.01), trials=1) >= 0.01


def test_an_operator_costs_a_call_and_its_traffic() -> None:
    assert clock.modelled(0, "cpu") == clock.OVERHEAD
    assert clock.modelled(1 << 30, "cpu") > 0.1 > clock.modelled(1 << 30, "cuda") > clock.OVERHEAD
