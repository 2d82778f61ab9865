"""What threads and processes tell each other by: events, futures, queues, whether a worker still runs.

A program that asks (``if self.stop.is_set()``) goes by the answer of its own call. Locks and semaphores are held for a
moment by whoever gets them, and decide nothing: a graph would be captured anew for no reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Answers = Callable[[Any], Any]  # what an object answers now; None where nobody can know


def _waiting(queue: Any) -> Any:
    try:
        return (queue.qsize(),)
    except NotImplementedError:  # of processes, on macOS
        return None


_ANSWERS: dict[tuple[str, str], Answers] = {  # by module and class, which need not be imported to know that it is not
    ("threading", "Event"): lambda event: (event.is_set(),),
    ("multiprocessing.synchronize", "Event"): lambda event: (event.is_set(),),
    ("threading", "Thread"): lambda worker: (worker.is_alive(), worker.name),
    ("multiprocessing.process", "BaseProcess"): lambda worker: (worker.is_alive(), worker.name),
    ("concurrent.futures._base", "Future"): lambda future: (future.done(), future.running(), future.cancelled()),
    ("multiprocessing.queues", "Queue"): _waiting,
}


def answers_of(value: Any) -> Answers | None:
    """None for whatever is no such object."""
    return next(filter(None, [_ANSWERS.get((c.__module__, c.__qualname__)) for c in type(value).__mro__]), None)
