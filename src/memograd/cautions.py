"""One warning, at the line of the user's program that led to it: no line of ours says anything to whoever reads it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import warnings

# Between a program and us: wrappers of the standard library's.
_BETWEEN = {module.__file__ for module in (contextlib, functools, threading)}
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep


def caution(message: str) -> None:
    """Warn, as from the innermost frame outside of memograd and PyTorch."""
    machinery = (_OWN, *_torch(), "<memograd", "<frozen", "<string>")
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_between(frame.f_code.co_filename, machinery):
        frame = frame.f_back
        level += not _is_importing(frame.f_code.co_filename)  # ``warnings`` does not count these
    warnings.warn(message, stacklevel=level)


def _torch() -> tuple[str, ...]:
    path = getattr(sys.modules.get("torch"), "__file__", None)
    return () if path is None else (os.path.dirname(os.path.abspath(path)) + os.sep,)


def _is_between(name: str, machinery: tuple[str, ...]) -> bool:
    return name.startswith(machinery) or name in _BETWEEN


def _is_importing(name: str) -> bool:
    return "importlib" in name and "_bootstrap" in name
