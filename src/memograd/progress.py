"""What takes so long: one line on stderr while the first step is made, if it takes more than two seconds and somebody
looks at a terminal.

    with progress.shown():
        ...
        progress.say("compiling kernel 3 of 17")

Nothing is shown outside of ``shown()``, in a pipe, or in a file; the line is gone when the work is done.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 2.0  # seconds without a word
_WIDTH = 78


class _Line:
    """The line of one thread's work, and the timer that shows it for the first time."""

    def __init__(self) -> None:
        self.text = ""
        self.visible = self.over = False
        self.turn = threading.Lock()  # the timer has a thread of its own
        self.timer = threading.Timer(_PATIENCE, self.appear)
        self.timer.daemon = True
        self.timer.start()

    def appear(self) -> None:
        with self.turn:
            self.visible = not self.over
            self.show()

    def say(self, text: str) -> None:
        with self.turn:
            self.text = text
            self.show()

    def show(self) -> None:
        if self.visible and self.text:
            sys.stderr.write(f"\r{f'memograd: {self.text} ...'[:_WIDTH]:<{_WIDTH}}")
            sys.stderr.flush()

    def close(self) -> None:
        self.timer.cancel()
        with self.turn:
            self.over = True
            if self.visible and self.text:
                sys.stderr.write(f"\r{' ' * _WIDTH}\r")
                sys.stderr.flush()


class _Here(threading.local):
    line: _Line | None = None


_HERE = _Here()


@contextmanager
def shown() -> Iterator[None]:
    """What is said inside is shown, if it takes long; inside another one nothing is new."""
    if _HERE.line is not None or not _on_a_terminal():
        yield
        return
    _HERE.line = _Line()
    try:
        yield
    finally:
        _HERE.line.close()
        _HERE.line = None


def say(text: str) -> None:
    """What is being done from now on."""
    if _HERE.line is not None:
        _HERE.line.say(text)


def _on_a_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it was closed
        return False
