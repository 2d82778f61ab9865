"""The algorithm of a convolution is the one that measures fastest; what was measured is kept."""

import pytest
import torch

from memograd import c_compiler
from memograd.run.convolutions import case as cases
from memograd.run.convolutions.case import DIRECT, Case

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")
LARGE = Case("convolution", (8, 16, 20, 20), (32, 16, 3, 3), (8, 32, 20, 20), (1, 1), (1, 1))
STRIDED = Case("filter_gradient", (8, 16, 20, 20), (64, 16, 3, 3), (8, 64, 10, 10), (2, 2), (1, 1))
SMALL = Case("convolution", (1, 1, 8, 8), (2, 1, 3, 3), (1, 2, 8, 8), (1, 1), (1, 1))


@pytest.fixture(autouse=True)
def a_machine_that_has_measured_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))


def measure(monkeypatch, **seconds):
    """Let each algorithm take as long as said; who was measured."""
    measured = []

    def stand_in(algorithms):
        measured.append(sorted(algorithms))
        return {name: seconds[name] for name in algorithms}

    monkeypatch.setattr(cases, "_seconds", stand_in)
    return measured


def test_the_fastest(monkeypatch):
    measured = measure(monkeypatch, direct=3.0, winograd=2.0, patches=1.0, positions=1.5)
    assert LARGE.fastest() == "patches" and measured == [["direct", "patches", "positions", "winograd"]]


def test_hardly_faster_is_not_faster(monkeypatch):
    measure(monkeypatch, direct=1.0, winograd=0.95, patches=2.0, positions=2.0)
    assert LARGE.fastest() == DIRECT


def test_only_algorithms_that_can_do_it(monkeypatch):
    measured = measure(monkeypatch, direct=2.0, patches=1.0, positions=3.0)
    assert STRIDED.fastest() == "patches" and measured == [["direct", "patches", "positions"]]


def test_what_is_small_is_not_measured(monkeypatch):
    measured = measure(monkeypatch)
    assert SMALL.fastest() == DIRECT and measured == []


def test_what_was_measured_is_kept(monkeypatch):
    measured = measure(monkeypatch, direct=2.0, winograd=1.0, patches=3.0, positions=3.0)
    assert [LARGE.fastest(), LARGE.fastest()] == ["winograd"] * 2 and len(measured) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)  # another machine, as far as times go
    assert LARGE.fastest() == "winograd" and len(measured) == 2


def test_without_a_compiler_there_is_pytorchs(monkeypatch):
    measured = measure(monkeypatch)
    for library in (cases.winograd.library, cases.patches.library, cases.positions.library):
        library.cache_clear()
    monkeypatch.setattr(c_compiler, "compiler", lambda: None)
    assert LARGE.fastest() == DIRECT and measured == []


def test_a_real_measurement_says_one_of_them():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert LARGE.fastest() in (DIRECT, "winograd", "patches", "positions")
    assert torch.equal(torch.get_rng_state(), before)


def test_on_one_thread_the_time_of_other_programs_is_not_counted(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(cases.time, "thread_time", iter([1.0, 3.0]).__next__)
    assert cases._took(lambda: None) == 2.0


def test_what_is_slow_at_first_only_is_measured_again(monkeypatch):
    times = {"direct": iter([0.002] * 9), "positions": iter([0.009, *[0.001] * 9]), "patches": iter([0.05])}
    monkeypatch.setattr(cases, "_took", lambda name: next(times[name]))
    assert cases._seconds({name: name for name in times}) == {"direct": 0.002, "positions": 0.001, "patches": 0.05}
