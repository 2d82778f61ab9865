"""Where a node comes from: the user's source line and the path of the module that ran it."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

# Frames inside these packages are machinery, not the user's program.
_MACHINERY = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, __file__)
)
_SKIPPED: dict[str, bool] = {}


def caller() -> tuple[str, str]:
    """(``file:line``, the text of that line) of the innermost frame outside torch and memograd."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        skipped = _SKIPPED.get(name)
        if skipped is None:
            skipped = _SKIPPED[name] = name.startswith((*_MACHINERY, "<frozen")) or name == "<string>"
        if not skipped:
            return f"{_short(name)}:{frame.f_lineno}", linecache.getline(name, frame.f_lineno).strip()
        frame = frame.f_back
    return "<unknown>", ""


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
        self._stack: list[str] = []

    @property
    def path(self) -> str:
        """Dotted path of the innermost running module, '' at the top."""
        return self._stack[-1] if self._stack else ""

    @contextmanager
    def follow(self, root: nn.Module) -> Iterator[None]:
        """Track the modules below ``root`` while the context is open."""
        self._names = {id(m): name for name, m in root.named_modules()}
        before = module_hooks.register_module_forward_pre_hook(self._enter)
        after = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._stack.clear()

    def _enter(self, module: nn.Module, _args: object) -> None:
        self._stack.append(self._names.get(id(module), type(module).__name__))

    def _leave(self, module: nn.Module, _args: object, _out: object) -> None:
        if self._stack:
            self._stack.pop()
