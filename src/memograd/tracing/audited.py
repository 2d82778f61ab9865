"""Files, folders, sockets and processes that a program looks at while it is captured.

Whatever way a program takes to a file (``open``, ``path.read_text()``, ``numpy.load``), Python raises an audit event
(PEP 578), and what stands in the file may be something else next time. What the import of a module opens, or the
printing of a warning, is not the program's doing. Whether there is a file, and how large and old it is, raises no such
event (``os.path.exists``, ``path.stat()``): that is seen at ``os.stat``, and asked again before a graph is used again.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memograd import collector, errors
from memograd.tracing.interposed import Interposed, together
from memograd.tracing.names import is_standard_file

Question = Callable[[], Any]
Tell = Callable[[str, Question | None], None]  # takes what was looked at, and how to ask for it again

_EVENTS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"),
        *("os.utime", "os.link", "os.symlink"),
        *("subprocess.Popen", "os.system", "socket.connect", "sqlite3.connect"),
    }
)
_OWN = os.path.dirname(errors.__file__) + os.sep
_TORCH = os.path.dirname(torch.__file__) + os.sep
_LOADS = tuple(_TORCH + name for name in ("serialization.py", "jit" + os.sep + "_serialization.py"))
_IMPORTS = ("<frozen importlib", "<frozen zipimport", "<frozen runpy")  # ``os`` and its paths are frozen, too
_STDLIB = os.path.dirname(linecache.__file__) + os.sep
_NOT_THE_PROGRAM = tuple(
    _STDLIB + n for n in ("linecache.py", "tokenize.py", "warnings.py", "importlib", "pkgutil.py", "inspect.py")
)


class _Here(threading.local):
    tell: Tell | None = None


_HERE = _Here()
_HOOKED: list[bool] = []


@contextmanager
def audited(tell: Tell) -> Iterator[None]:
    """Call ``tell`` with each of them that the program of this thread looks at."""
    if not _HOOKED:
        _HOOKED.append(True)
        sys.addaudithook(_hook)  # stays for as long as Python runs, and does nothing outside
    outer, _HERE.tell = _HERE.tell, tell
    try:
        with together(*_ASKED):
            yield
    finally:
        _HERE.tell = outer


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    tell = _HERE.tell
    if tell is not None and _is_the_programs():
        tell(f"{event} {args[0]!r}" if args else event, None)


def _seen(name: str) -> Interposed:
    ask = getattr(os, name)

    def asked(*args: Any, **kwargs: Any) -> Any:
        tell = _HERE.tell
        if tell is not None and _is_the_programs():
            tell(f"os.{name} {args[0]!r}" if args else f"os.{name}", lambda: _answer(ask, args, kwargs))
        return ask(*args, **kwargs)

    return Interposed(os, name, asked)


def _answer(ask: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What ``ask`` says of a file but for when it was last read."""
    try:
        answer = ask(*args, **kwargs)
    except OSError as error:
        return type(error).__name__
    if not isinstance(answer, os.stat_result):
        return answer
    return (*answer[:7], answer.st_mtime_ns, answer.st_ctime_ns)


def _collects() -> bool:
    """``gc.isenabled()``, which is off during a capture and on again behind it."""
    tell = _HERE.tell
    if tell is not None and _is_the_programs():
        tell("gc.isenabled", collector.is_on)
        return collector.is_on()
    return _IS_ENABLED()


_IS_ENABLED = gc.isenabled
_ASKED = [*(_seen(name) for name in ("stat", "lstat", "access")), Interposed(gc, "isenabled", _collects)]


def _is_the_programs() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((*_IMPORTS, _OWN, *_NOT_THE_PROGRAM)) or (
            file.startswith(_TORCH) and not file.startswith(_LOADS)
        ):
            return False
        if not is_standard_file(file) and not file.startswith(("<frozen", *_LOADS)):
            return True
        frame = frame.f_back
    return False
