"""What threads, tasks and processes tell each other by: events, futures, queues, locks, whether a worker still runs.

A program that asks (``if self.stop.is_set()``) goes by the answer of its own call. Locks and semaphores are held for a
moment by whoever gets them, and decide nothing (``with self.lock``): they count where the program's code names what
tells how they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memograd.tracing.kinds.kind import Kind

Answers = Callable[[Any], Any]  # what an object answers now; None where nobody can know
_ASKED_BY = frozenset(
    {"acquire", "locked", "_value", "get_value", "_is_owned", "_is_mine", "broken", "n_waiting", "_waiters"}
)


def _waiting(queue: Any) -> Any:
    try:
        return (queue.qsize(),)
    except NotImplementedError:  # of processes, on macOS
        return None


def _left(semaphore: Any) -> Any:
    try:
        return semaphore._semlock._is_mine(), semaphore._semlock._get_value()
    except NotImplementedError:  # on macOS
        return None


def _owned(lock: Any) -> Any:
    return lock._is_owned(), repr(lock).partition(" ")[0]  # whether somebody has it, and nothing else says so


_FUTURE = lambda future: (future.done(), future.cancelled())  # noqa: E731
_LOCKED = lambda lock: (lock.locked(),)  # noqa: E731
_VALUE = lambda semaphore: (semaphore._value,)  # noqa: E731
_EVENT = lambda event: (event.is_set(),)  # noqa: E731

_ANSWERS: dict[tuple[str, str], Answers] = {  # by module and class, which need not be imported to know that it is not
    ("threading", "Event"): _EVENT,
    ("asyncio.locks", "Event"): _EVENT,
    ("multiprocessing.synchronize", "Event"): _EVENT,
    ("threading", "Timer"): lambda timer: (timer.is_alive(), timer.name, timer.finished.is_set()),
    ("threading", "Thread"): lambda worker: (worker.is_alive(), worker.name),
    ("multiprocessing.process", "BaseProcess"): lambda worker: (worker.is_alive(), worker.name),
    ("concurrent.futures._base", "Future"): lambda future: (future.done(), future.running(), future.cancelled()),
    ("asyncio.futures", "Future"): _FUTURE,
    ("_asyncio", "Future"): _FUTURE,
    ("multiprocessing.queues", "Queue"): _waiting,
    ("asyncio.queues", "Queue"): _waiting,
}
_LOCKS: dict[tuple[str, str], Answers] = {
    ("_thread", "lock"): _LOCKED,
    ("_thread", "RLock"): _owned,
    ("threading", "_RLock"): _owned,
    ("threading", "Semaphore"): _VALUE,
    ("threading", "Condition"): lambda condition: (
        (_owned(condition._lock), len(condition._waiters))
        if hasattr(condition._lock, "_is_owned")
        else (condition._lock.locked(), len(condition._waiters))
    ),
    ("threading", "Barrier"): lambda barrier: (barrier.broken, barrier.n_waiting, barrier.parties),
    ("asyncio.locks", "Lock"): _LOCKED,
    ("asyncio.locks", "Condition"): _LOCKED,
    ("asyncio.locks", "Semaphore"): _VALUE,
    ("multiprocessing.synchronize", "SemLock"): _left,
}
_KINDS = {
    **{name: Kind(answers) for name, answers in _ANSWERS.items()},
    **{name: Kind(answers, asked_by=_ASKED_BY, idle=True) for name, answers in _LOCKS.items()},
}


def signal_of(value: Any) -> Kind | None:
    """None for whatever is no such object."""
    return next(filter(None, [_KINDS.get((c.__module__, c.__qualname__)) for c in type(value).__mro__]), None)
