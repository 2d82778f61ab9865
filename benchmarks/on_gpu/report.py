"""What is tried, as a table that grows line by line: no failure and no lack of time hides another case."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from on_gpu.ledger import FAULT, LATE, OK, SKIPPED, line

AGAIN = 5.0  # seconds after which the end of a part is raised once more, where somebody swallowed it


class Skip(Exception):  # noqa: N818  (no error)
    """Something that this machine lacks."""


class OutOfTime(BaseException):
    """The time of a part is over; no Exception, so that nobody takes it for a failure of his own."""


class Lost(BaseException):
    """The device does nothing any more for this process."""


class Case:
    """One line of the table. ``note`` is what it says; ``data`` goes into the JSON."""

    def __init__(self, part: str, name: str) -> None:
        self.part, self.name = part, name
        self.status = OK
        self.note = ""
        self.data: dict[str, Any] = {}
        self.seconds = 0.0

    def check(self, good: bool, what: str) -> None:
        """Record a fault, and go on."""
        if not good:
            self.status = FAULT
            self.note = f"{self.note}; {what}" if self.note else what

    def as_data(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v not in ("", {})}


class Report:
    """The parts and cases of one process.

    Attributes:
        end: when everything must have ended, by ``now``.
        tell: is told of each part and case, as it begins and when it is over.
        settle: waits for the device, so that a kernel's failure is that of the case which ran it.
    """

    now = staticmethod(time.monotonic)

    def __init__(
        self, end: float, tell: Callable[[dict[str, Any]], None], settle: Callable[[], None] = lambda: None
    ) -> None:
        self.end, self.tell, self.settle = end, tell, settle
        self.part, self.part_end, self.count = "", end, 0

    def left(self) -> float:
        """Seconds until the part that is under way must end."""
        return self.part_end - self.now()

    @contextmanager
    def one_part(self, name: str, limit: float, least: float) -> Iterator[bool]:
        """A group of cases, ended after ``limit`` seconds; yields False, and says so, where not even ``least`` are
        left."""
        self.part, self.part_end, self.count = name, self.now() + limit, 0
        start = self.now()
        self.tell({"part": name, "limit": limit})
        say(f"\n{name} (at most {max(0.0, limit):.0f} s)")
        if limit < least or limit <= 0:
            self._add(Case(name, "all of it"), LATE, f"{limit:.0f} s are left, it takes {least:.0f}")
            yield False
        else:
            try:
                with alarm(limit):
                    yield True
            except OutOfTime:
                self._add(Case(name, "the rest"), LATE, f"{limit:.0f} s are over")
            except Exception as error:
                self._add(Case(name, "itself"), FAULT, described(error))
        say(f"  {self.count} cases in {self.now() - start:.1f} s")
        self.tell({"ended": name})

    @contextmanager
    def case(self, name: str) -> Iterator[Case]:
        """One line. Whatever is raised inside becomes its status."""
        case = Case(self.part, name)
        start = self.now()
        self.tell({"begun": name})
        try:
            yield case
            self.settle()
        except Skip as reason:
            case.status, case.note = SKIPPED, str(reason)
        except OutOfTime:
            stopped = f"stopped after {self.now() - start:.1f} s"
            self._add(
                case, FAULT if case.status == FAULT else LATE, f"{stopped}; {case.note}" if case.note else stopped
            )
            raise
        except Exception as error:
            case.check(False, described(error))
            case.data["traceback"] = traceback.format_exc()
        case.seconds = round(self.now() - start, 3)
        self._add(case, case.status, case.note)
        if case.status == FAULT:
            self._go_on()

    def _go_on(self) -> None:
        """Raise Lost where the device is of no use any more."""
        try:
            self.settle()
        except Exception as error:
            raise Lost from error

    def _add(self, case: Case, status: str, note: str) -> None:
        case.status, case.note = status, note
        self.count += 1
        say(line(case.status, case.name, case.seconds, case.note))
        self.tell({"case": case.as_data()})


def say(text: str) -> None:
    print(text, flush=True)


def described(error: BaseException) -> str:
    """The error and the last line of ours that it passed through."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename] or frames
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}{place}"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside after so many seconds (where the system has such alarms)."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
