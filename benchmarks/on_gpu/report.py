"""What was tried, as a table that grows line by line and as JSON: no failure and no lack of time hides another case."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OK, FAULT, SKIPPED, LATE = "ok", "FAULT", "skipped", "no time"


class Skip(Exception):  # noqa: N818  (no error)
    """Something that this machine lacks."""


class OutOfTime(BaseException):
    """The time of a part is over; no Exception, so that nobody takes it for a failure of his own."""


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
    """All cases. ``seconds``: how long everything may take."""

    def __init__(self, seconds: float, folder: Path | None, about: dict[str, Any]) -> None:
        self.end = time.monotonic() + seconds
        self.folder = folder
        self.about = about
        self.cases: list[Case] = []
        self.part = ""
        self.part_end = self.end
        say("  ".join(f"{k} {v}" for k, v in about.items()))

    def left(self) -> float:
        """Seconds until the part that is under way must end."""
        return self.part_end - time.monotonic()

    @contextmanager
    def one_part(self, name: str, limit: float, least: float) -> Iterator[bool]:
        """A group of cases, ended after ``limit`` seconds; yields False, and says so, where not even ``least`` are
        left."""
        limit = min(limit, self.end - time.monotonic())
        self.part, self.part_end = name, time.monotonic() + limit
        start, count = time.monotonic(), len(self.cases)
        say(f"\n{name} (at most {max(0.0, limit):.0f} s)")
        if limit < least:
            self._add(Case(name, "all of it"), LATE, f"{limit:.0f} s are left, it takes {least:.0f}")
            yield False
            return
        try:
            with alarm(limit):
                yield True
        except OutOfTime:
            self._add(Case(name, "the rest"), LATE, f"{limit:.0f} s are over")
        except Exception as error:
            self._add(Case(name, "itself"), FAULT, described(error))
        say(f"  {len(self.cases) - count} cases in {time.monotonic() - start:.1f} s")
        self.save()

    @contextmanager
    def case(self, name: str) -> Iterator[Case]:
        """One line. Whatever is raised inside becomes its status."""
        case = Case(self.part, name)
        start = time.monotonic()
        try:
            yield case
        except Skip as reason:
            case.status, case.note = SKIPPED, str(reason)
        except OutOfTime:
            self._add(case, LATE, f"stopped after {time.monotonic() - start:.1f} s")
            raise
        except Exception as error:
            case.status, case.note = FAULT, described(error)
            case.data["traceback"] = traceback.format_exc()
        case.seconds = round(time.monotonic() - start, 3)
        self._add(case, case.status, case.note)

    def _add(self, case: Case, status: str, note: str) -> None:
        case.status, case.note = status, note
        self.cases.append(case)
        say(f"  {case.status:8}{case.name:44}{case.seconds:8.2f} s  {case.note}")

    def save(self) -> None:
        """Write what there is so far: a run that is killed leaves it behind."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = {"about": self.about, "cases": [c.as_data() for c in self.cases]}
            (self.folder / "gpu.json").write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")

    def conclude(self) -> int:
        """The last lines; the exit code."""
        self.save()
        by_status = {s: [c for c in self.cases if c.status == s] for s in (OK, FAULT, SKIPPED, LATE)}
        say("\n" + ", ".join(f"{len(cases)} {status}" for status, cases in by_status.items()))
        for case in (*by_status[LATE], *by_status[FAULT]):
            say(f"  {case.status:8}{case.part}: {case.name}: {case.note}")
        return 1 if by_status[FAULT] else 0


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
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
