"""What operators take of the allocator, measured beside other profilers of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from memograd.memory.costs.allocations import memory
from memograd.memory.costs.trials import Trial


def sort(n: int) -> Callable[[], Trial]:
    """Numbers of 4 bytes to sort: the result is as long, and so are their places, of 8 bytes each."""

    def prepare() -> Trial:
        numbers = torch.randn(n)
        return Trial(lambda: torch.sort(numbers)[0], lambda out: (out.nbytes,))

    return prepare


def test_a_profiler_that_is_on_goes_on() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as users:
        torch.ones(3).sinh()
        taken = memory({"sort": sort(5000)}, "cpu")
        torch.ones(3).cosh()
    assert taken["sort"][1] == (20000,) and taken["sort"][0] >= 40000
    names = {event.name for event in users.events() or ()}
    assert {"aten::sinh", "aten::cosh"} <= names


def test_two_threads_measure_at_once() -> None:
    alone = memory({n: sort(n) for n in (3000, 5000, 7000)}, "cpu")
    taken, start = [], threading.Barrier(2)

    def measure() -> None:
        start.wait()
        taken.extend(memory({n: sort(n) for n in (3000, 5000, 7000)}, "cpu") for _ in range(20))

    threads = [threading.Thread(target=measure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40 and all(each == alone for each in taken)
