"""Which attributes a program asks objects and modules for.

``__getattribute__`` of a watched class is one of ours for as long as somebody listens. It tells
the listeners of its own thread and calls the one that was there; other threads see no difference.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from memograd.tracing.holders import MISSING
from memograd.tracing.names import is_machinery

Listener = Callable[[Any, str], None]  # object, name
Instead = Callable[[Any, str, int], Any]  # object, name, the number that stands there

_HEAP_TYPE, _IMMUTABLE_TYPE = 1 << 9, 1 << 8  # flags of types, in CPython's object.h
_MODULE_FILE = sys.modules[nn.Module.__module__].__file__
MACHINERY = ""  # in place of ``__dict__`` where ``nn.Module`` asks for it: to look up or set one attribute
_WATCHED: dict[type, Any] = {}  # classes and the ``__getattribute__`` of their own, or MISSING
_MODULES: list[tuple[types.ModuleType, type]] = []  # and the classes that were theirs


class _Here(threading.local):
    def __init__(self) -> None:
        super().__init__()
        self.listeners: tuple[Listener, ...] = ()
        self.instead: Instead | None = None


_HERE = _Here()


@contextmanager
def listening(listener: Listener, instead: Instead | None = None, alone: bool = False) -> Iterator[None]:
    """Tell ``listener`` what is asked of watched classes in this thread; who asks for a whole number gets what
    ``instead`` returns. Captures take turns, so nobody else listens but outer captures of the same thread, and these
    hear nothing if it listens ``alone``; when the outermost leaves, no class is watched any more."""
    outer, outer_instead = _HERE.listeners, _HERE.instead
    _HERE.listeners = (listener,) if alone else (*outer, listener)
    _HERE.instead = None if outer else instead
    try:
        yield
    finally:
        _HERE.listeners, _HERE.instead = outer, outer_instead
        if not outer:
            for cls, own in _WATCHED.items():
                if own is MISSING:
                    del cls.__getattribute__  # pyright: ignore[reportAttributeAccessIssue]
                else:
                    cls.__getattribute__ = own
            _WATCHED.clear()
            for module, cls in _MODULES:
                module.__class__ = cls
            _MODULES.clear()


def watch(cls: type) -> bool:
    """Watch the objects of a class from now on; false where they have no attributes of interest or it can't be done."""
    if hasattr(cls.__getattribute__, "tells"):
        return True
    flags = cls.__flags__
    if not flags & _HEAP_TYPE or flags & _IMMUTABLE_TYPE or not _is_users(cls):
        return False
    own = vars(cls).get("__getattribute__", MISSING)
    try:
        cls.__getattribute__ = _telling(cls.__getattribute__)
    except (TypeError, AttributeError):  # a metaclass that does not allow it
        return False
    _WATCHED[cls] = own
    return True


def watch_module(module: types.ModuleType) -> bool:
    """The same for what a module is asked for by name: it gets a class of its own."""
    cls = type(module)
    if hasattr(cls.__getattribute__, "tells"):
        return True
    try:
        module.__class__ = type(cls.__name__, (cls,), {"__getattribute__": _telling(cls.__getattribute__)})
    except TypeError:
        return False
    _MODULES.append((module, cls))
    return True


def _is_users(cls: type) -> bool:
    return not is_machinery(cls.__module__) or cls is nn.Module or cls.__module__.startswith("torch.distributions.")


def _telling(ask: Any) -> Any:
    def tell(self: Any, name: str) -> Any:
        listeners = _HERE.listeners
        if not listeners or (name.startswith("__") and name != "__dict__"):
            return ask(self, name)
        if name == "__dict__" and (asking := sys._getframe(1).f_code).co_filename == _MODULE_FILE:
            name = name if asking.co_name == "__dir__" else MACHINERY  # ``dir(self)`` is the program's question
        for listener in listeners:
            listener(self, name)
        value = ask(self, name or "__dict__")
        if type(value) is int and (instead := _HERE.instead) is not None:
            return instead(self, name, value)
        return value

    tell.tells = True  # pyright: ignore[reportFunctionMemberAccess]
    return tell
