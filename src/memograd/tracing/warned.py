"""Warnings that a program gives (``warnings.warn``): each run of its graph gives them anew, as from the same line.

Whether one is shown, raised, or was shown before is up to the filters of that run. A capture only notes them, and a
run of PyTorch's for a comparison gives none. Where a filter makes an error of one, the program may catch it and go
another way: then it is raised as the program runs, and a graph holds for filters that raise the same ones.
"""

from __future__ import annotations

import os
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from memograd import errors
from memograd.tracing.interposed import Interposed, current, together
from memograd.tracing.names import is_user_code

_WARN, _EXPLICIT = warnings.warn, warnings.warn_explicit
_OWN = os.path.dirname(os.path.abspath(errors.__file__)) + os.sep
_BETWEEN = (_OWN, os.path.abspath(torch.overrides.__file__))  # a mode of ours calls the function of PyTorch's again
_REGISTRY = "__warningregistry__"


@dataclass(frozen=True)
class Warned:
    """One warning.

    Attributes:
        place: file, line and module that it is said to come from.
        scope: where these note what was shown before, under the name that Python has for it.
        own: the filters that the program has put before those around it, or ``instead`` of them.
    """

    message: Any
    category: type[Warning]
    place: tuple[str, int, str]
    scope: dict[str, Any]
    own: tuple[Any, ...] = ()
    instead: bool = False

    def give(self) -> None:
        """The graph has run: warn, or let the capture around it note that."""
        noting = _noting()
        if noting is not None:
            noting.add(self)
        elif not (self.own or self.instead):
            self.now()
        else:
            with warnings.catch_warnings():
                behind = () if self.instead else tuple(warnings.filters)
                warnings.resetwarnings()  # tells Python that they are others, too
                vars(warnings)["filters"].extend((*self.own, *behind))
                self.now()

    def now(self) -> None:
        file, line, module = self.place
        registry = self.scope.setdefault(_REGISTRY, {})
        _EXPLICIT(self.message, self.category, file, line, module, registry)

    def is_error(self) -> bool:
        """Whether the filters make an error of it."""
        text = str(self.message)
        filters = self.own if self.instead else (*self.own, *warnings.filters)
        for action, message, category, module, line in filters:
            if not issubclass(self.category, category) or line not in (0, self.place[1]):
                continue
            if _fits(message, text) and _fits(module, self.place[2]):
                return action == "error"
        return vars(warnings).get("defaultaction") == "error"


class Noting:
    """The warnings of one run of a program; only those that it catches or shows itself are given.

    Args:
        tell: takes how to ask whether filters raise others by now, once there is a warning.
    """

    def __init__(self, tell: Callable[[Callable[[], bool]], None] | None = None) -> None:
        self.all: list[Warned] = []
        self._tell = tell
        self._filters, self._shows = tuple(warnings.filters), _shows()
        self._raised: list[tuple[Warned, bool]] = []
        self._asked: tuple[list[Any], bool] = ([None], False)

    def add(self, warned: Warned) -> None:
        if _shows() != self._shows:
            return warned.now()  # into a list of the program's own
        raises = warned.is_error()
        self._raised.append((warned, raises))
        if self._tell is not None:
            self._tell, tell = None, self._tell  # once; who is told holds this
            tell(self._raises_others)
        if raises:
            warned.now()
        self.all.append(warned)

    def own(self) -> tuple[tuple[Any, ...], bool]:
        """The filters of the program's own, and whether they are instead of those around it, see ``Warned``."""
        now = tuple(warnings.filters)
        ahead = len(now) - len(self._filters)
        below = ahead >= 0 and now[ahead:] == self._filters
        return (now[:ahead], False) if below else (now, True)

    def _raises_others(self) -> bool:
        """Whether the filters make errors of other warnings than they did."""
        before, answer = self._asked
        if warnings.filters != before:
            answer = any(warned.is_error() != raised for warned, raised in self._raised)
            self._asked = ([*warnings.filters], answer)
        return answer


def _fits(pattern: Any, text: str) -> bool:
    """Filters of Python's own have texts in the place of patterns."""
    return pattern is None or (pattern == text if isinstance(pattern, str) else bool(pattern.match(text)))


def _shows() -> tuple[Any, Any]:
    return warnings.showwarning, vars(warnings).get("_showwarnmsg_impl")


class _Here(threading.local):
    noting: Noting | None = None  # of a run that is only compared


_HERE = _Here()


@contextmanager
def not_given() -> Iterator[None]:
    """Inside, in this thread, a program runs for a comparison: it warns nobody."""
    outer, _HERE.noting = _HERE.noting, Noting()
    try:
        with together(*WATCHED):
            yield
    finally:
        _HERE.noting = outer


def _noting() -> Noting | None:
    """Takes the warnings of what this thread runs."""
    tracer = current()
    return _HERE.noting if tracer is None else tracer.warned


def _of_the_program() -> Noting | None:
    """The same where it is the program that warns, or a function of PyTorch's that it calls: no kernel of a capture's
    (they warn when the graph runs), and nobody of ours."""
    noting, frame = _noting(), sys._getframe(2)
    if noting is None or frame.f_code.co_filename.startswith(_OWN):
        return None
    while frame is not None and not is_user_code(frame.f_code):
        if frame.f_code.co_name == "__torch_dispatch__":
            return None
        frame = frame.f_back
    return noting


def warn(
    message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, *, skip_file_prefixes: Any = ()
) -> None:
    noting = _of_the_program()
    kind = type(message) if isinstance(message, Warning) else category or UserWarning
    level = max(2 if skip_file_prefixes else 1, stacklevel)
    if noting is None or not (isinstance(kind, type) and issubclass(kind, Warning)):
        skipping: Any = {"skip_file_prefixes": skip_file_prefixes} if skip_file_prefixes else {}
        return _WARN(message, category, level + 1, source, **skipping)
    frame: Any = sys._getframe(1)
    for _ in range(level - 1):
        frame = frame and _outer(frame, tuple(skip_file_prefixes))
    scope = sys.__dict__ if frame is None else frame.f_globals
    file, line = ("sys", 1) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    place = file, line, scope.get("__name__") or "<string>"
    noting.add(Warned(message, kind, place, scope, *noting.own()))


def _outer(frame: types.FrameType, prefixes: tuple[str, ...]) -> types.FrameType | None:
    """The next one that ``warnings`` counts in a run that is not captured."""
    code, outer = frame.f_code, frame.f_back
    again = False
    while outer is not None:
        file = outer.f_code.co_filename
        ours = file.startswith(_BETWEEN)
        if not (ours or (again and outer.f_code is code) or _is_importing(file) or file.startswith(prefixes or "\0")):
            break
        again, outer = again or ours, outer.f_back
    return outer


def _is_importing(file: str) -> bool:
    return "importlib" in file and "_bootstrap" in file


def _warn_explicit(
    message: Any,
    category: Any,
    filename: Any,
    lineno: Any,
    module: Any = None,
    registry: Any = None,
    module_globals: Any = None,
    source: Any = None,
) -> None:
    noting = _of_the_program()
    if noting is None or module_globals is not None or source is not None:
        return _EXPLICIT(message, category, filename, lineno, module, registry, module_globals, source)
    module = module or (filename or "<unknown>").removesuffix(".py")
    kind = type(message) if isinstance(message, Warning) else category
    scope = {_REGISTRY: registry}
    noting.add(Warned(message, kind, (filename, lineno, module), scope, *noting.own()))


_STAND_INS = ((_WARN, warn), (_EXPLICIT, _warn_explicit))
INSTEAD: dict[Any, Any] = {f: pair for pair in _STAND_INS for f in pair}  # for who has imported them by name
WATCHED = (Interposed(warnings, "warn", warn), Interposed(warnings, "warn_explicit", _warn_explicit))
