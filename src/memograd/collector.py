"""Python's search for cyclic garbage, which waits while a graph is made."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from gc import isenabled as _is_enabled  # itself, whatever a capture puts in front of it

_PAUSE = threading.Lock()
_pausing = 0  # how many are under way, in all threads


def is_on() -> bool:
    """What ``gc.isenabled()`` is to the user's program."""
    return _pausing > 0 or _is_enabled()


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's search for cyclic garbage waits. A stage makes objects by the thousand for every operator and drops few,
    and Python would look through all of them again and again: a third of the time of a graph of 20,000 operators.

    What is new when it ends counts as old at once. Python would else begin with a search through all of it, and of all
    that there was before; the next one of old objects still comes when they have become a quarter more.
    """
    global _pausing
    with _PAUSE:
        paused = is_on()  # who has switched it off finds it off
        if paused and not _pausing:
            gc.collect(1)  # what the user has just let go is not to grow old here
            gc.disable()
        _pausing += paused
    try:
        yield
    finally:
        with _PAUSE:
            _pausing -= paused
            if paused and not _pausing:
                if not gc.get_freeze_count():  # else they are another's, who wants them left alone
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()
