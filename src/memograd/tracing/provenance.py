"""Where a node comes from: the user's source line and the path of the module that ran it."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from memograd import errors
from memograd._torch import forward_hooks

# Frames inside these packages are machinery, not the user's program.
_MACHINERY = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, errors.__file__))
_MODELS = os.path.join(
    os.path.dirname(os.path.abspath(errors.__file__)), "recipes", "models.py"
)  # but for our examples
GRAPH_TEXT = "<memograd"  # how the file names begin that the texts of graphs are compiled with
_SKIPPED: dict[str, bool] = {}


def caller() -> tuple[str, str]:
    """(``file:line``, the text of that line) of the innermost frame outside torch and memograd."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_machinery(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return "<unknown>", ""


def in_graph() -> bool:
    """Whether what runs is the text of a graph, rather than a program that has not been captured yet."""
    frame = sys._getframe(1)
    while frame is not None and _is_machinery(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith(GRAPH_TEXT):
            return True
        frame = frame.f_back
    return False


def raised_at(error: BaseException) -> tuple[str, str]:
    """The same for the place where ``error`` was raised."""
    place = ("<unknown>", "")
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not _is_machinery(name):
            place = _place(name, traceback.tb_lineno)
        traceback = traceback.tb_next
    return place


def _is_machinery(name: str) -> bool:
    known = _SKIPPED.get(name)
    if known is None:
        known = _SKIPPED[name] = (
            name.startswith((*_MACHINERY, "<frozen", GRAPH_TEXT)) and name != _MODELS
        ) or name == "<string>"
    return known


def _place(name: str, line: int) -> tuple[str, str]:
    return f"{_short(name)}:{line}", linecache.getline(name, line).strip()


def file_called(short: str) -> str | None:
    """The file whose places are written as ``short:line``; None where it is gone."""
    for path in (*(getattr(m, "__file__", None) for m in list(sys.modules.values())), *linecache.cache):
        if isinstance(path, str) and os.path.basename(path) == os.path.basename(short) and _short(path) == short:
            return path
    return None


def _short(path: str) -> str:
    """The path without what is the machine's own: relative to the working folder or to site-packages."""
    for marker in ("site-packages" + os.sep, os.getcwd() + os.sep):
        if marker in path:
            return path.split(marker, 1)[1]
    return os.path.basename(path)


class ModuleStack:
    """Follows which ``nn.Module`` is running, by PyTorch's global forward hooks."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._counts: dict[str, int] = {}  # how often each was called
        self._stack: list[tuple[tuple[str, int], ...]] = []  # the calls under way, at each depth
        self._thread = 0  # the one that runs the program: the hooks are called in all of them
        self.failed = ""  # the innermost module whose forward raised

    @property
    def path(self) -> str:
        """Dotted path of the innermost running module, '' at the top."""
        return self._stack[-1][-1][0] if self._stack else ""

    @property
    def calls(self) -> tuple[tuple[str, int], ...]:
        """The calls under way, outermost first: (dotted path, how many calls of that module came before)."""
        return self._stack[-1] if self._stack else ()

    @contextmanager
    def follow(self, root: nn.Module) -> Iterator[None]:
        """Track the modules below ``root`` while the context is open."""
        self._thread = threading.get_ident()
        self._names = {id(m): name for name, m in root.named_modules()}
        before = module_hooks.register_module_forward_pre_hook(self._enter)
        after = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._stack.clear()
            self._counts.clear()

    def _enter(self, module: nn.Module, _args: object) -> None:
        if threading.get_ident() == self._thread:
            name = self._names.get(id(module), type(module).__name__)
            before = self._counts.get(name, 0)
            self._counts[name] = before + 1
            self._stack.append((*self.calls, (name, before)))

    def _leave(self, module: nn.Module, _args: object, out: object) -> None:
        if self._stack and threading.get_ident() == self._thread:
            name = self._stack.pop()[-1][0]
            if out is None and not self.failed:  # PyTorch calls this hook with None when forward raises
                self.failed = name


def hooks_of_every_module() -> list[Any]:
    """The user's hooks around the forward of all modules."""
    hooks = forward_hooks()
    return [h for h in hooks if not isinstance(getattr(h, "__self__", None), ModuleStack)] if hooks else hooks
