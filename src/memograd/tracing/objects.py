"""What objects and classes hold. Attributes of objects are seen one by one, when the program asks for them; those of
classes, and the state of what has no attributes (``state_kinds.py``), count as read at once."""

from __future__ import annotations

import abc
import argparse
import collections
import types
import weakref
from typing import Any

import torch

from memograd.tracing import asked
from memograd.tracing.caches import Before
from memograd.tracing.grown import Classes
from memograd.tracing.holders import ClassAttributes, Holder, dict_of, slots_of
from memograd.tracing.kinds.holders import inside
from memograd.tracing.kinds.libraries import REGISTERED
from memograd.tracing.names import is_library_module, is_machinery, is_standard
from memograd.tracing.state_kinds import kind_of
from memograd.tracing.states import States

_WITHOUT_VALUES = frozenset(  # modules of the standard library whose objects decide nothing
    {
        *("logging", "typing", "threading", "abc", "enum", "re", "inspect", "importlib", "contextlib", "warnings"),
        *("asyncio", "concurrent", "dataclasses", "operator", "types", "unittest"),
        *("_frozen_importlib", "_frozen_importlib_external", "zipimport", "builtins"),
    }
)
_WITH_VALUES = (  # others, whose objects count
    *("torch.quasirandom", "torch.utils.data", "torch.utils.weak", "torch.optim", "numpy"),
)
CARRIERS = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
)


class Objects:
    """The part of ``Reads`` that follows objects and classes."""

    names: dict[int, str]
    containers: list[Any]
    states: States
    classes: Classes
    again: str  # what could not be seen in this run, and will be in the next: the graph serves one call
    _alive: list[Any]
    _depth: int
    remembering: list[tuple[Any, Before]]  # ``functools.cache``d functions, and what they remembered before
    _weakly = False

    def keep(self, container: Any, holder: Holder | None = None) -> Any:
        raise NotImplementedError

    def keep_slots(self, owner: Any) -> dict[str, Any]:
        raise NotImplementedError

    def place(self, holder: Any, key: Any, value: Any, name: str, attribute: bool = False, inside: bool = True) -> None:
        """``value`` was read there; what it holds counts as met, too, if ``inside``."""
        raise NotImplementedError

    def key(self, value: Any, name: str) -> None:
        raise NotImplementedError

    def weakly(self, reference: weakref.ref[Any], name: str) -> None:
        raise NotImplementedError

    def watch_ids(self, scope: dict[str, Any], name: str) -> None:
        raise NotImplementedError

    def stand_in(self, scope: dict[str, Any], name: str, value: Any, own: Any) -> Any:
        raise NotImplementedError

    def watch_modules(self) -> None:
        raise NotImplementedError

    def attributes_of(self, cls: type) -> Any:
        raise NotImplementedError

    def meet(self, value: Any, name: str) -> None:
        raise NotImplementedError

    def _class(self, value: type, name: str) -> None:
        """A class the program can name: what it asks of a class, nobody tells us."""
        self._metaclass(value)
        self.classes.meet(value)
        for cls in value.__mro__:
            module = cls.__module__
            if is_machinery(module):
                continue
            self._data_of(cls)
            if not is_library_module(module):
                for key, entry in list(vars(cls).items()):
                    if not key.startswith("__"):
                        self.place(self.attributes_of(cls), key, entry, f"{cls.__qualname__}.{key}")
        self._special_methods(value)

    def _metaclass(self, cls: type) -> None:
        """``type(self).scale``, a property of the class of the class; ``isinstance(x, Interface)``."""
        meta = type(cls)
        if not is_machinery(meta.__module__):
            self.meet(meta, meta.__qualname__)
        if issubclass(meta, abc.ABCMeta) and not is_machinery(cls.__module__) and not self.states.knows(REGISTERED):
            self.states.meet(cls, REGISTERED, "ABCMeta.register")

    def _data_of(self, cls: type) -> None:
        for key, entry in list(self.keep(cls, ClassAttributes(cls)).items()):
            if not key.startswith("_abc_"):
                self.place(self.attributes_of(cls), key, entry, f"{cls.__qualname__}.{key}")

    def _object(self, value: Any, name: str) -> None:
        """Any other object: its attributes are seen when they are asked for."""
        cls = type(value)
        own = dict_of(value)
        if isinstance(value, torch.nn.Module):
            self.watch_modules()
        if (kind := kind_of(value)) is not None:
            self.states.meet(value, kind, name or cls.__name__)
            self._inside(value, name)
        if cls.__module__.startswith("memograd."):
            for part in list(own.values()) if own else ():
                if callable(part):
                    self.meet(part, name)  # the function that a transform of ours is of
        elif asked.watch(cls):
            self._of_users_class(value, name)
            if own is not None:
                self.keep(own)
            if slots_of(cls):
                self.keep_slots(value)
        elif own is not None and kind is None and _has_values(cls):
            self.meet(own, name)

    def _of_users_class(self, value: Any, name: str) -> None:
        cls = type(value)
        self._special_methods(cls)
        self._metaclass(cls)
        self.classes.meet(cls)
        users = [c for c in cls.__mro__ if not (is_machinery(c.__module__) or is_library_module(c.__module__))]
        for base in users:  # ``type(self).scale``
            self._data_of(base)
        if users and value.__class__ is cls and not self._weakly:
            self.place(value, "__class__", cls, f"the class of {name}", attribute=True)

    def _inside(self, value: Any, name: str) -> None:
        outer, self._weakly = self._weakly, issubclass(type(value), weakref.ref)  # what nobody else holds shall go
        if self._weakly:
            self.weakly(value, name)
        for part in inside(value):
            self.meet(part, name)
        self._weakly = outer

    def _carrier(self, value: Any, name: str) -> None:
        """An object of the standard library's that holds the user's values, whose class cannot be watched."""
        self.meet(dict_of(value), name)
        if type(value) not in CARRIERS:
            self._object(value, name)

    def _special_methods(self, cls: type) -> None:
        """``__call__`` and its like are looked up past ``__getattribute__``."""
        for base in cls.__mro__:
            if not (is_machinery(base.__module__) or is_library_module(base.__module__)):
                for key, entry in list(vars(base).items()):
                    if key.startswith("__") and isinstance(entry, types.FunctionType):
                        if key == "__getattribute__":  # who listens stands in its place by now
                            self.meet(entry, f"{cls.__qualname__}.{key}")
                        else:
                            self.place(self.attributes_of(base), key, entry, f"{cls.__qualname__}.{key}")


def _has_values(cls: type) -> bool:
    """Whether what objects of a class of PyTorch's or the standard library's hold may decide something."""
    module = cls.__module__
    top = module.partition(".")[0]
    return module.startswith(_WITH_VALUES) or (is_standard(top) and top not in _WITHOUT_VALUES)
