"""What a program reads besides its arguments while it is captured, and what it may write to.

A graph holds for as long as everything its program looked at is as it was: attributes of modules and of other objects,
dicts and lists, variables of enclosing functions, globals. And the program may leave things behind in them, which
capture has to take back. Both are recorded::

    def forward(self, x):
        if self.config.scale > 1:        # reads self.config and config.scale
            x = x * self.config.scale
        self.last = x.mean()             # writes self.last
        return x

Attributes are seen one by one, as the program asks for them: while a capture is under way, ``__getattribute__`` of
``nn.Module`` and of the user's classes tells us (``asked.py``). Dicts, lists and functions cannot be watched so: from
those that the program gets hold of, everything inside counts as read.
"""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from memograd.tracing import asked
from memograd.tracing.chance import Chance, is_generator
from memograd.tracing.holders import (
    MISSING,
    Attributes,
    ClassAttributes,
    Holder,
    Variables,
    dict_of,
    holder_of,
    slots_of,
)
from memograd.tracing.names import globals_of, is_library, is_library_module, is_machinery, is_user_code
from memograd.tracing.provenance import hooks_of_every_module

_DEPTH = 2  # of calls from function to function inside libraries: what decides there does not change
_LARGEST = 100_000  # entries of a container; one that is larger is known by its identity
_HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))
_ATOMS = frozenset(
    {
        *(int, float, complex, bool, str, bytes, type(None), type(...), slice, range, types.BuiltinFunctionType),
        *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, types.ModuleType, type(MISSING)),
    }
)


@dataclass(frozen=True)
class Place:
    """Where a value of the user's stands: ``holder[key]``, or with ``attribute`` ``holder.key``; or inside a tuple that
    stands there, at ``within``."""

    holder: Any
    key: Any
    name: str
    attribute: bool = False
    within: tuple[int, ...] = ()

    def get(self) -> Any:
        try:
            if self.attribute:
                value = getattr(self.holder, self.key)
            elif isinstance(self.holder, dict):  # whatever a subclass makes of ``holder[key]``
                value = dict.__getitem__(self.holder, self.key)
            else:
                value = self.holder[self.key]
            for i in self.within:
                value = value[i]
            return value
        except (KeyError, IndexError, AttributeError, ValueError, TypeError):  # a cell without content has ValueError
            return MISSING


def tensors_in(value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    """``value`` if it is a tensor; those in it, and where, if it is a tuple."""
    if isinstance(value, torch.Tensor):
        yield within, value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from tensors_in(item, (*within, i))


class Reads:
    """What one capture has seen so far. ``roots`` are what the program is given to begin with, by name.

    Attributes:
        places: the places read and what stood there, by (id of holder, key).
        before: what can hold values and the program has got hold of, and what it held; by id. Of an object its
            ``__dict__``.
        tensors: where each tensor met stands, by its id.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.places: dict[tuple[int, Any], tuple[Place, Any]] = {}
        self.before: dict[int, tuple[Holder, Any]] = {}
        self.tensors: dict[int, Place] = {}
        self.containers: list[Any] = []  # dicts, lists and sets that count as read with all they hold
        self.names: dict[int, str] = {}  # a path for messages, by id of what was met
        self._classes: dict[type, Any] = {}
        self._alive: list[Any] = []  # so that ids stay unique
        self._seen: set[tuple[int, str]] = set()
        self.chance = Chance()
        self._busy = False
        self._depth = 0  # library functions called by library functions, on the way to what is met
        for name, root in (*roots, *(("hook", hook) for hook in hooks_of_every_module())):
            self.meet(root, name)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What runs inside is the program."""
        with asked.listening(self.attribute):
            asked.watch(nn.Module)
            yield

    # -- attributes, as the program asks for them ----------------------------------------------------------------

    def attribute(self, owner: Any, name: str) -> None:
        """``owner.name`` is asked for. Objects that the program has made itself are its own business."""
        if self._busy or id(owner) not in self.names or (id(owner), name) in self._seen:
            return
        self._busy = True
        try:
            self._seen.add((id(owner), name))
            self._attribute(owner, name)
        finally:
            self._busy = False

    def _attribute(self, owner: Any, name: str) -> None:
        path = self.names[id(owner)]
        own = dict_of(owner)
        tables = [own] if own is not None else []
        if isinstance(owner, nn.Module) and own is not None:
            tables += [own[table] for table in ("_parameters", "_buffers", "_modules") if table in own]
        befores = [self._keep(table) for table in tables]
        if name == asked.MACHINERY:
            return
        if name == "__dict__":
            self.meet(own, path)
            return
        for table, before in zip(tables, befores, strict=True):
            if name in table or name in before:
                if name in _HOOKS and isinstance(owner, nn.Module):
                    self.meet(table[name], f"{path}.{name}")  # always the same dict
                elif table.get(name, MISSING) is before.get(name, MISSING):  # else it is the program's own doing
                    self._place(table, name, table[name], f"{path}.{name}".lstrip("."))
                return
        for cls in type(owner).__mro__:
            if name in vars(cls):
                self._of_class(owner, own, cls, name, path)
                return
        for table in tables:  # hasattr(owner, name), or a name that __getattr__ makes up
            self._place(table, name, MISSING, f"{path}.{name}")

    def _of_class(self, owner: Any, own: dict[str, Any] | None, cls: type, name: str, path: str) -> None:
        entry = vars(cls)[name]
        if isinstance(entry, types.MemberDescriptorType):  # of __slots__
            value = Place(owner, name, "", attribute=True).get()
            if self._keep_slots(owner).get(name, MISSING) is value:
                self._place(owner, name, value, f"{path}.{name}", attribute=True)
            return
        users = not is_machinery(cls.__module__)
        if own is not None and (users or name == "forward"):
            self._place(own, name, MISSING, f"{path}.{name}")  # the instance may get one of its own
        if users:
            self._place(self._attributes_of(cls), name, entry, f"{cls.__qualname__}.{name}")

    def _attributes_of(self, cls: type) -> Any:
        """``vars(cls)``, which is another object each time, always as the same one."""
        return self._classes.setdefault(cls, vars(cls))

    def _keep(self, container: Any, holder: Holder | None = None) -> Any:
        """What ``container`` held when the program first got hold of it."""
        if id(container) not in self.before:
            holder = holder or holder_of(container)
            self._alive.append(container)
            self.before[id(container)] = (holder, holder.contents())
        return self.before[id(container)][1]

    def _keep_slots(self, owner: Any) -> dict[str, Any]:
        return self._keep(owner, Attributes(owner, slots_of(type(owner))))

    def _place(self, holder: Any, key: Any, value: Any, name: str, attribute: bool = False) -> None:
        if (id(holder), key) not in self.places:
            self._alive.append(holder)
            place = Place(holder, key, name, attribute)
            self.places[id(holder), key] = (place, value)
            for within, tensor in tensors_in(value):
                inside = "".join(f".{i}" for i in within)
                self.tensors.setdefault(id(tensor), replace(place, name=f"{name}{inside}", within=within))
            self.meet(value, name)

    # -- everything else, as soon as the program can get at it ---------------------------------------------------

    def meet(self, value: Any, name: str) -> None:
        """The program gets hold of ``value``."""
        kind = type(value)
        if kind in _ATOMS or id(value) in self.names:
            return
        self.names[id(value)] = name
        self._alive.append(value)
        if issubclass(kind, torch.Tensor | enum.Enum):
            return
        for kinds, meet in _MEETINGS:
            if issubclass(kind, kinds):
                meet(self, value, name)
                return
        self._object(value, name)

    def _container(self, value: Any, name: str) -> None:
        if type(value) not in (dict, list, set, collections.deque, collections.OrderedDict):
            self._object(value, name)
        if len(value) > _LARGEST:
            return
        held = self._keep(value)
        self.containers.append(value)
        pairs = held.items() if isinstance(held, dict) else enumerate(held)
        for key, item in pairs:
            if isinstance(held, set):
                self.meet(item, f"{name} member")
            else:
                self._place(value, key, item, f"{name}.{key}".lstrip("."))

    def _fixed(self, value: Iterable[Any], name: str) -> None:
        for i, item in enumerate(value):
            self.meet(item, f"{name}.{i}")

    def _method(self, value: types.MethodType, name: str) -> None:
        self.meet(value.__self__, name.rpartition(".")[0] or "self")
        self.meet(value.__func__, name)

    def _partial(self, value: functools.partial[Any], name: str) -> None:
        for part in (value.func, value.args, value.keywords):
            self.meet(part, name)

    def _descriptor(self, value: Any, name: str) -> None:
        for attribute in ("__func__", "fget", "fset", "func", "__wrapped__"):
            self.meet(getattr(value, attribute, None), name)

    def _weak(self, value: Callable[[], Any], name: str) -> None:
        self.meet(value(), name)

    def _class(self, value: type, name: str) -> None:
        """A class the program can name: what it asks of a class, nobody tells us."""
        module = value.__module__
        if is_machinery(module) or issubclass(value, torch.autograd.Function):
            return  # Functions are ours while they are captured, see functions.py
        held = self._keep(value, ClassAttributes(value))
        for key, entry in list(vars(value).items()):
            if key in held or not (key.startswith("__") or is_library_module(module)):
                self._place(self._attributes_of(value), key, entry, f"{value.__qualname__}.{key}")

    def _function(self, function: types.FunctionType, name: str) -> None:
        code = function.__code__
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            held = self._keep(cell, Attributes(cell, ("cell_contents",)))
            self._place(cell, "cell_contents", held.get("cell_contents", MISSING), variable, attribute=True)
        for part in (function.__defaults__, function.__kwdefaults__, function.__dict__ or None):
            self.meet(part, name)
        library = is_library(code.co_filename)
        if is_user_code(code) and self._depth + library <= _DEPTH:
            self._depth += library
            read, written = globals_of(code)
            if written:
                self._keep(code, Variables(function.__globals__, written))
            for chain in read:
                self._global(function.__globals__, chain)
            self._depth -= library

    def _global(self, scope: dict[str, Any], chain: tuple[str, ...]) -> None:
        """``config.model.k``, where ``config`` is a module: what stands behind the modules."""
        for i, name in enumerate(chain):
            value = scope.get(name, MISSING)
            if isinstance(value, types.ModuleType) and not is_machinery(value.__name__):
                scope = vars(value)
                continue
            if isinstance(value, types.FunctionType | type) and is_library(scope.get("__file__") or ""):
                if isinstance(value, types.FunctionType):
                    self.meet(value, name)  # nobody puts another one in its place
            elif value is not MISSING and not isinstance(value, types.ModuleType):  # not a builtin
                self._place(scope, name, value, ".".join(chain[: i + 1]))
            return

    def _object(self, value: Any, name: str) -> None:
        """Any other object: its attributes are seen when they are asked for."""
        cls = type(value)
        own = dict_of(value)
        if is_generator(value):
            self.chance.meet(value)
        elif cls.__module__.startswith("memograd."):
            for part in list(own.values()) if own else ():
                if callable(part):
                    self.meet(part, name)  # the function that a transform of ours is of
        elif asked.watch(cls):
            self._special_methods(cls)
            if own is not None:
                self._keep(own)
            if slots_of(cls):
                self._keep_slots(value)

    def _carrier(self, value: Any, name: str) -> None:
        """An object of the standard library's that holds the user's values, whose class cannot be watched."""
        self.meet(dict_of(value), name)
        if type(value) not in _CARRIERS:
            self._object(value, name)

    def _special_methods(self, cls: type) -> None:
        """``__call__`` and its like are looked up past ``__getattribute__``."""
        for base in cls.__mro__:
            if not (is_machinery(base.__module__) or is_library_module(base.__module__)):
                for key, entry in list(vars(base).items()):
                    if key.startswith("__") and isinstance(entry, types.FunctionType):
                        self.meet(entry, f"{cls.__qualname__}.{key}")


_CARRIERS = (
    types.SimpleNamespace,
    argparse.Namespace,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
)
_Meeting = Callable[[Reads, Any, str], None]
_MEETINGS: list[tuple[Any, _Meeting]] = [
    ((dict, list, set, collections.deque), Reads._container),
    ((tuple, frozenset), Reads._fixed),
    (types.FunctionType, Reads._function),
    (types.MethodType, Reads._method),
    (functools.partial, Reads._partial),
    ((staticmethod, classmethod, property, functools.cached_property, functools._lru_cache_wrapper), Reads._descriptor),
    (weakref.ref, Reads._weak),
    (type, Reads._class),
    (_CARRIERS, Reads._carrier),
]
