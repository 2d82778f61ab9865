"""Tensors in memory that is used again: nothing that is alive shares a byte, and nothing that is kept changes."""

import copy
import gc
import os
import resource
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import memograd as mg
from memograd.graph.graph import Graph
from memograd.lower.lower import lower
from memograd.run.eager import Eager
from memograd.run.pool.library import POOL
from memograd.run.pool.places import ANYWHERE, Places

pytestmark = pytest.mark.skipif(POOL.wait() is None, reason=f"no pool here: {POOL.reason}")

IN_USE, REGION, PLACED, ELSEWHERE, PEAK = range(5)


def number(which: int) -> int:
    assert POOL.library is not None
    return POOL.library.pool_number(which)


def faults(call) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


class Wide(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def stepping(seed: int = 0, **options):
    torch.manual_seed(seed)
    model = Wide()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(4096, 64), torch.randn(4096, 64)  # results of a MiB
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, backend="eager", check="never", **options)
    return model, step, x, y


# -- what it is for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, "80%"])
def test_a_step_takes_no_fresh_memory_after_its_first_runs(budget):
    _, step, x, y = stepping(memory_budget=budget)
    for _ in range(4):
        step(x, y)
    placed, elsewhere = number(PLACED), number(ELSEWHERE)
    assert faults(lambda: [step(x, y) for _ in range(5)]) <= 5  # the interpreter's own; a single result is 256 pages
    assert number(PLACED) > placed and number(ELSEWHERE) == elsewhere


def test_places_need_no_more_than_is_alive_at_once():
    _, step, x, y = stepping()
    for _ in range(3):
        step(x, y)
    before = number(IN_USE)
    number(PEAK)
    step(x, y)
    alive = number(PEAK) - before
    extent = step._required().choice.backend.places.extent
    assert extent is not None and alive <= extent <= 1.05 * alive


def test_numbers_are_those_of_ordinary_memory(monkeypatch):
    model, step, x, y = stepping()
    losses = [step(x, y) for _ in range(5)]
    monkeypatch.setattr(POOL, "library", None)
    plain, other, x, y = stepping()
    assert [other(x, y).item() for _ in range(5)] == [loss.item() for loss in losses]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_memory_goes_back_to_the_system_with_its_step():
    _, step, x, y = stepping()
    for _ in range(3):
        step(x, y)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before, extent = resident(), step._required().choice.backend.places.extent
    assert extent is not None
    del step
    gc.collect()
    assert before - resident() > extent / 2


# -- what must never happen ----------------------------------------------------------------------------------------


def returned(graph_of, *args) -> tuple[Graph, Eager]:
    graph = mg.capture(graph_of, *args)
    return graph, Eager(lower(graph))


def test_results_that_somebody_keeps_are_never_overwritten():
    def f(x):
        h = (x * 2).tanh()
        return h, (h + 1).T[3:, ::2], h.sum(0)

    x = torch.randn(300, 200)
    graph, backend = returned(f, x)
    kept = []
    for k in range(8):
        given = graph.bind((x + k,), {})
        results = backend.step(given)
        kept.append((k, results))
        if k % 3 == 2:
            kept.pop(0)  # some of the memory becomes free between two that stay
    for k, results in kept:
        for ours, theirs in zip(results, f(x + k), strict=True):
            assert torch.equal(ours, theirs)


def test_what_is_kept_of_a_step_survives_the_step_itself():
    x = torch.randn(300, 200)
    graph, backend = returned(lambda x: (x * 2, (x - 1)[5:]), x)
    for _ in range(4):
        results = backend.step(graph.bind((x,), {}))
    view, value = results[1], results[0]
    del backend, results
    gc.collect()
    with ANYWHERE:
        others = [torch.full((300, 200), 7.0) for _ in range(6)]
    assert torch.equal(value, x * 2) and torch.equal(view, (x - 1)[5:]) and others[0][0, 0] == 7


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(1, 40)),  # a tensor of so many KiB
        st.tuples(st.just("drop"), st.integers(0, 50)),
        st.tuples(st.just("view"), st.integers(0, 50)),
        st.tuples(st.just("keep"), st.integers(0, 50)),  # beyond the step
    ),
    max_size=30,
)


class Steps:
    """Runs the same list of allocations again and again; each tensor has a number of its own in every element."""

    def __init__(self, first: int) -> None:
        self.places, self.next, self.kept = Places(), first, []

    def run(self, actions, deviation: int) -> None:
        alive = []
        with self.places:
            for k, (what, size) in enumerate(actions):
                if what == "make":
                    self.next += 1
                    extra = 3 if k == deviation else 0  # a run need not do what the run before did
                    alive.append((self.next, torch.full((256 * (size + extra),), self.next, dtype=torch.int32)))
                elif alive and what == "drop":
                    self.look([alive.pop(size % len(alive))])
                elif alive and what == "view":
                    own, tensor = alive[size % len(alive)]
                    alive.append((own, tensor[len(tensor) // 2 :]))
                elif alive and what == "keep":
                    self.kept.append(alive[size % len(alive)])
            self.look(alive)
        self.look(self.kept)
        del self.kept[:-5]

    @staticmethod
    def look(held) -> None:
        for own, tensor in held:
            assert bool((tensor == own).all()), "two tensors share memory"


@settings(deadline=None, max_examples=60)
@given(actions=ACTIONS, deviations=st.lists(st.integers(-1, 30), min_size=3, max_size=6))
def test_no_two_tensors_share_a_byte(actions, deviations):
    steps = Steps(0)
    for deviation in deviations:
        steps.run(actions, deviation)


@settings(deadline=None, max_examples=10)
@given(left=ACTIONS, right=ACTIONS)
def test_threads_share_no_byte_either(left, right):
    wrong = []

    def work(actions, first):
        steps = Steps(first)
        try:
            for _ in range(8):
                steps.run(actions, -1)
        except AssertionError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=a) for a in ((left, 0), (right, 10**6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tensors_may_be_released_by_another_thread():
    places, x = Places(), []
    for _ in range(4):
        with places:
            x.append(torch.ones(5000))
        thread = threading.Thread(target=x.clear)
        thread.start()
        thread.join()
    before = number(IN_USE)
    with places:
        x.append(torch.ones(5000))
    assert number(IN_USE) == before + 20032  # 20,000 bytes, and up to a multiple of 64
    x.clear()
    assert number(IN_USE) == before


def test_code_outside_has_pytorchs_own_memory():
    before = number(IN_USE)
    x = torch.ones(100_000)
    assert number(IN_USE) == before
    with ANYWHERE:
        y = torch.ones(100_000)
        inside = number(IN_USE)
        thread = threading.Thread(target=lambda: x.clone().exp_())
        thread.start()
        thread.join()
    assert inside > before and torch.equal(x, y)
    y.untyped_storage().resize_(4 * 200_000)  # asks the storage's allocator, which gives malloc's memory here
    assert number(IN_USE) == before


def test_an_exception_leaves_the_pool():
    places = Places()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places:
            torch.ones(5000).fill_(1 / 0)
    before = number(IN_USE)
    assert len(torch.ones(5000)) and number(IN_USE) == before
    for _ in range(3):
        with places:
            assert torch.ones(5000).sum() == 5000


def test_only_the_run_that_was_written_down_gets_places():
    """Two threads on one backend: the second comes to its end while the first is written down."""
    places = Places()
    with places:
        pass

    def other() -> None:
        with places:
            torch.ones(5000)

    with places:
        x = torch.ones(5000)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert places.extent is None
        y = torch.ones(7000)
    assert places.extent == 20032 + 28032 and len(x) + len(y) == 12_000


def test_a_child_process_can_go_on():
    with ANYWHERE:
        x = torch.ones(5000)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with ANYWHERE:
                y = x * 3
            del x
            code = int(y[17].item() != 3)
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0 and x[17] == 1


def test_the_profiler_sees_memory_of_the_pool_as_any_other():
    def bytes_of(around) -> list[int]:
        with torch.profiler.profile(profile_memory=True) as profile, around:
            x = torch.ones(5000)
            del x
        return [e.self_cpu_memory_usage for e in profile.events() if e.self_cpu_memory_usage]

    assert bytes_of(ANYWHERE) == bytes_of(torch.no_grad())


def test_kernels_that_take_raw_memory_give_back_what_was_never_the_pools():
    """oneDNN's engine asks the allocator of the moment, and gives back to that of another."""
    conv = nn.Conv2d(8, 16, 3)
    x = torch.randn(4, 8, 20, 20)
    with torch.no_grad():
        expected = conv(x)
        for _ in range(3):
            with ANYWHERE:
                inside = conv(x)
            assert torch.equal(conv(x), expected) and torch.equal(inside, expected)


def test_a_copy_of_a_backend_has_places_of_its_own():
    places = Places()
    for _ in range(3):
        with places:
            torch.ones(5000)
    other = copy.deepcopy(places)
    assert places.extent and other.extent is None
    del places
    for _ in range(3):
        with other:
            torch.ones(5000)
    assert other.extent
