"""Runs the parts in processes, one at a time, and outlives them.

A kernel that fails on a CUDA device takes the device from its process for good, a crash ends it, and one that never
returns listens to no alarm. The worker says what it is at, through a pipe; what is left when it is gone gets another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from typing import Any

from on_gpu.ledger import FAULT, LATE, Ledger
from on_gpu.parts import PARTS

GRACE = 15.0  # seconds over its limit after which a part is ended from outside
LOADING = 90.0  # seconds until a worker says what it begins with
ENDING = 10.0  # seconds that a process has to end in once it has said all, or was told to
LOST = 3  # exit code of a worker that has lost the device
USAGE = 2  # and of one that was asked for what is not there


class Supervisor:
    """Keeps a worker running as long as there are parts, and time.

    Attributes:
        left: the parts that have not begun.
        part, case: what the worker is at; '' where it is at none.
    """

    def __init__(self, command: list[str], parts: list[str], end: float, ledger: Ledger) -> None:
        self.command, self.left, self.end, self.ledger = command, parts, end, ledger
        self.part = self.case = ""
        self.deadline = 0.0

    def run(self) -> int:
        """Every part, or the word that it was not run; the exit code where there is nothing to run on."""
        while self.left:
            before = len(self.left)
            code = self._worker()
            if code == USAGE and not self.ledger.about:
                return code
            if self.part:
                why = "the device is in no state to go on" if code == LOST else f"the process ended with {_named(code)}"
                self.ledger.note(self.part, "the rest", FAULT, f"{why}, in or behind {self.case or 'its beginning'!r}")
            elif len(self.left) == before:
                self.ledger.note(self.left[0], "all of it", FAULT, f"no process began with it: {_named(code)}")
                self.left.pop(0)
            if self.left and self.end - time.monotonic() < min(PARTS[name].least for name in self.left):
                for name in self.left:
                    self.ledger.note(name, "all of it", LATE, "no time is left")
                break
        return 0

    def _worker(self) -> int:
        """One process, until it has ended; its exit code, negative where a signal ended it."""
        self.part = self.case = ""
        self.deadline = time.monotonic() + LOADING
        heard, said = os.pipe()
        command = [*self.command, "--worker", str(said), "--seconds", str(self.end - time.monotonic())]
        process = subprocess.Popen([*command, "--only", *self.left], pass_fds=[said], start_new_session=True)
        os.close(said)
        try:
            self._listen(heard, process)
            return process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            os.close(heard)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and whatever it has begun
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to it
                process.wait(ENDING)

    def _listen(self, heard: int, process: subprocess.Popen[bytes]) -> None:
        """Hear the worker to its end, or end it where it is late. (Its own children may hold the pipe open.)"""
        rest = b""
        while True:
            ended = process.poll() is not None
            if select.select([heard], [], [], 0.0 if ended else 0.5)[0]:
                data = os.read(heard, 1 << 16)
                *lines, rest = (rest + data).split(b"\n")
                for text in lines:
                    with contextlib.suppress(ValueError):  # half a line, of a process that was stopped in the middle
                        self._take(json.loads(text))
                if not data:
                    return
            elif ended:
                return
            if time.monotonic() > self.deadline and not ended:
                process.send_signal(signal.SIGUSR1)  # it prints where it is
                time.sleep(1)
                os.killpg(process.pid, signal.SIGKILL)
                return

    def _take(self, message: dict[str, Any]) -> None:
        if "about" in message:
            self.ledger.about = message["about"]
        if "part" in message:
            self.part, self.case = message["part"], ""
            self.left.remove(self.part)
            self.deadline = time.monotonic() + max(0.0, message["limit"]) + GRACE
        if "begun" in message:
            self.case = message["begun"]
        if "case" in message:
            self.ledger.add(message["case"])
        if "ended" in message:
            self.part = ""
            self.deadline = time.monotonic() + GRACE


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"
