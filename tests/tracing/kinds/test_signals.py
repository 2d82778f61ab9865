"""What threads and processes tell each other by decides what a program does. Witness: plain PyTorch."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

Case = tuple[Callable[[], float], list[Callable[[], Any]]]  # what is asked for, and what happens between the calls


def event(kind: Any) -> Callable[[], Case]:
    def case() -> Case:
        held = kind()
        return lambda: 2.0 if held.is_set() else 3.0, [held.set, lambda: None, held.clear]

    return case


def worker() -> Case:
    stop = threading.Event()
    held = threading.Thread(target=stop.wait)
    return lambda: 2.0 if held.is_alive() else 3.0, [held.start, lambda: None, lambda: (stop.set(), held.join())]


def future() -> Case:
    held: Future[float] = Future()
    return lambda: held.result() if held.done() else 3.0, [lambda: None, lambda: held.set_result(2.0), lambda: None]


def level() -> Case:
    held, around = logging.getLogger("asked.for.its.level"), logging.getLogger("asked")
    around.setLevel(logging.WARNING)
    levels = [logging.INFO, logging.INFO, logging.ERROR]
    changes = [lambda to=to: around.setLevel(to) for to in levels]
    return lambda: 2.0 if held.isEnabledFor(logging.INFO) else 3.0, changes


def disabled() -> Case:
    held = logging.getLogger("asked")
    held.setLevel(logging.DEBUG)
    changes = [lambda to=to: logging.disable(to) for to in (logging.ERROR, logging.ERROR, logging.NOTSET)]
    return lambda: 2.0 if held.isEnabledFor(logging.INFO) else 3.0, changes


def lock(kind: Any, ask: Callable[[Any], bool], take: Callable[[Any], Any]) -> Callable[[], Case]:
    def case() -> Case:
        held = kind()
        return lambda: 2.0 if ask(held) else 3.0, [lambda: None, lambda: take(held), lambda: None]

    return case


def to_be_had(held: Any) -> bool:
    had = held.acquire(False)
    if had:
        held.release()
    return had


CASES: dict[str, Callable[[], Case]] = {
    "event": event(threading.Event),
    "event of processes": event(multiprocessing.Event),
    "event of tasks": event(asyncio.Event),
    "lock": lock(threading.Lock, lambda held: held.locked(), lambda held: held.acquire()),
    "lock that is tried": lock(threading.Lock, to_be_had, lambda held: held.acquire()),
    "lock that its owner may take again": lock(threading.RLock, lambda held: held._is_owned(), lambda h: h.acquire()),
    "semaphore": lock(threading.Semaphore, lambda held: held._value > 0, lambda held: held.acquire()),
    "barrier": lock(lambda: threading.Barrier(2), lambda held: held.broken, lambda held: held.abort()),
    "timer": lock(lambda: threading.Timer(9, print), lambda held: held.finished.is_set(), lambda held: held.cancel()),
    "lock of processes": lock(multiprocessing.Lock, to_be_had, lambda held: held.acquire()),
    **{case.__name__: case for case in (worker, future, level, disabled)},
}


class Asking(nn.Module):
    def __init__(self, ask: Callable[[], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.ask = ask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sin() * self.ask()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger("asked").setLevel(logging.NOTSET)


def gradients(case: Callable[[], Case], turn: Callable[[nn.Module], Any]) -> list[torch.Tensor]:
    ask, changes = case()
    model = turn(Asking(ask))
    found = []
    for change in (*changes, lambda: None):
        model.zero_grad()
        model(torch.tensor(0.3, dtype=torch.float64)).backward()
        found.append(model.weight.grad.clone())
        change()
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_wrapped_model_goes_by_the_answer_of_each_call(name: str) -> None:
    expected = gradients(CASES[name], lambda model: model)
    assert len({x.item() for x in expected}) == 2
    torch.testing.assert_close(gradients(CASES[name], lambda m: mg.wrap(m, check="never")), expected)


def test_a_queue_is_as_long_as_it_is() -> None:
    held = multiprocessing.Queue()
    model = mg.wrap(Asking(lambda: held.qsize() + 1.0), check="never")
    x = torch.tensor(0.3, dtype=torch.float64)
    for k in range(3):
        torch.testing.assert_close(model(x), (model.weight * x).sin() * (k + 1))
        held.put(k)
    held.cancel_join_thread()
    held.close()


def test_a_lock_that_others_hold_now_and_then_makes_no_other_program() -> None:
    lock = threading.Lock()

    def locked() -> float:
        with lock:
            return 2.0

    model = mg.wrap(Asking(locked), check="never")
    for _ in range(2):
        model(torch.ones((), dtype=torch.float64))
    with lock:
        model(torch.ones((), dtype=torch.float64))
    assert len(model.forward.captures) == 1


@pytest.mark.parametrize("way", ["wrap", "step"])
def test_what_a_program_takes_of_a_semaphore_it_takes_once(way: str) -> None:
    held = threading.Semaphore(2)
    model = Asking(lambda: 2.0 if held.acquire(blocking=False) else 3.0)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), 0.0)) if way == "step" else mg.wrap(model)
    x = torch.tensor(0.3, dtype=torch.float64)
    plain = (model.weight * x).sin().detach()
    for factor in (2, 2, 3, 3):
        torch.testing.assert_close(step(x).detach(), plain * factor)
