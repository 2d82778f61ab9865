"""What a program can get at as soon as it has got hold of something: what containers, functions and classes hold.

Dicts, lists and functions cannot be watched while they are used: everything inside counts as read. What holds neither
attributes nor items (an array, an iterator) has a state, see ``state_kinds.py``; what a program asks the standard
library for (``os.environ``, ``time.time()``) is in ``standard.py``.
"""

from __future__ import annotations

import collections
import enum
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from memograd.tracing import asked
from memograd.tracing.caches import Before
from memograd.tracing.holders import MISSING, Attributes, Variables, dict_of
from memograd.tracing.ids import TOLD
from memograd.tracing.keys import shown
from memograd.tracing.kinds.kind import UNKNOWN, Kind
from memograd.tracing.kinds.libraries import BIG, OF_A_LIBRARY
from memograd.tracing.names import (
    attributes_in,
    globals_of,
    imported_by,
    is_library,
    is_library_module,
    is_machinery,
    is_user_code,
)
from memograd.tracing.objects import CARRIERS, Objects
from memograd.tracing.standard import CALLED, Question, named, question
from memograd.tracing.warned import INSTEAD

_DEPTH = 2  # of calls from function to function inside libraries: what decides there does not change
_LARGEST = 100_000  # entries of a container that are met one by one
_ATOMS = frozenset(
    {
        *(int, float, complex, bool, str, bytes, type(None), type(...), slice, range),
        *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, type(MISSING)),
    }
)
_EVERYTHING = frozenset({"globals", "eval", "exec"})  # of the globals may be read by these
_PARTS = ("__defaults__", "__kwdefaults__", "__code__")


class Meetings(Objects):
    """The part of ``Reads`` that follows what containers, functions and modules hold."""

    def meet(self, value: Any, name: str) -> None:
        """The program gets hold of ``value``."""
        kind = type(value)
        if kind in _ATOMS or id(value) in self.names:
            return
        self.names[id(value)] = name
        self._alive.append(value)
        if issubclass(kind, enum.Enum):
            self.meet(dict_of(value), name)  # a member may be given attributes
            return
        for kinds, meet in _MEETINGS:
            if issubclass(kind, kinds):
                meet(self, value, name)
                return
        self._object(value, name)

    # -- containers ----------------------------------------------------------------------------------------------

    def _container(self, value: Any, name: str) -> None:
        if type(value) not in (dict, list, set, collections.deque, collections.OrderedDict):
            self._object(value, name)
        if len(value) > _LARGEST:
            self._large(value, name)
            return
        held = self.keep(value)
        self.containers.append(value)
        pairs = held.items() if isinstance(held, dict) else enumerate(held)
        for key in held if isinstance(held, (dict, set)) else ():
            if type(key) is not str:
                self.key(key, name)
        for key, item in pairs:
            if isinstance(held, set):
                self.meet(item, f"{name} member")
            else:
                self.place(value, key, item, f"{name}.{shown(key)}".lstrip("."))

    def _large(self, value: Any, name: str) -> None:
        items = value.values() if isinstance(value, dict) else value
        if set(map(type, items)) <= _ATOMS:
            self.states.meet(value, BIG, name)
        else:
            self.states.meet(value, UNKNOWN, name)

    def _fixed(self, value: Iterable[Any], name: str) -> None:
        if type(value) not in (tuple, frozenset) and dict_of(value) is not None:
            self._object(value, name)
        for i, item in enumerate(value):
            if isinstance(value, frozenset):
                self.key(item, name)
            self.meet(item, f"{name}.{i}")

    def _tensor(self, value: torch.Tensor, name: str) -> None:
        self.meet(dict_of(value), name)  # what the user has noted on it: ``weight.scale = 2``

    # -- functions -----------------------------------------------------------------------------------------------

    def _method(self, value: types.MethodType, name: str) -> None:
        self.meet(value.__self__, name.rpartition(".")[0] or "self")
        self.meet(value.__func__, name)
        if value.__name__ == "forward" and isinstance(value.__self__, torch.nn.Module):
            self._forward_of(type(value.__self__))

    def _forward_of(self, cls: type) -> None:
        """That of a class of PyTorch's may be replaced, too: ``GraphModule.recompile``."""
        owner = next((c for c in cls.__mro__ if "forward" in vars(c)), cls)
        self.place(
            self.attributes_of(owner), "forward", vars(owner).get("forward", MISSING), f"{cls.__qualname__}.forward"
        )

    def _builtin(self, value: Any, name: str) -> None:
        """``random.random``, ``values.pop``, ``time.time``."""
        self._asks(question(value), value, name)
        owner = value.__self__
        if not isinstance(owner, types.ModuleType | type):
            self.meet(owner, name.rpartition(".")[0] or name)

    def _partial(self, value: functools.partial[Any], name: str) -> None:
        for part in ("func", "args", "keywords"):
            self.place(value, part, getattr(value, part), name, attribute=True)
        self._object(value, name)

    def _descriptor(self, value: Any, name: str) -> None:
        for attribute in ("__func__", "fget", "fset", "func", "__wrapped__"):
            self.meet(getattr(value, attribute, None), name)

    def _remembering(self, value: Any, name: str) -> None:
        """``@functools.cache``: what it returned once it returns again, to whoever asks."""
        self.remembering.append((value, Before(value)))
        self.meet(value.__wrapped__, name)

    def _function(self, function: types.FunctionType, name: str) -> None:
        self._asks(question(function), function, name)
        code = function.__code__
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            held = self.keep(cell, Attributes(cell, ("cell_contents",)))
            self.place(cell, "cell_contents", held.get("cell_contents", MISSING), variable, attribute=True)
        library = is_library(code.co_filename)
        users = is_user_code(code)
        if users and not library:
            for part in _PARTS:
                self.place(function, part, getattr(function, part), f"{name}.{part}", attribute=True)
            self.meet(function.__dict__, name)
        else:
            for part in (function.__defaults__, function.__kwdefaults__, function.__dict__ or None):
                self.meet(part, name)
        if users and self._depth + library <= _DEPTH:
            self._depth += library
            self.states.named |= attributes_in(code)
            read, written = globals_of(code)
            if written:
                self.keep(code, Variables(function.__globals__, written))
            for chain in read:
                self._global(function.__globals__, chain, library)
            for imported in () if library else imported_by(code, function.__globals__.get("__package__") or ""):
                self._imported(imported)
            self._depth -= library

    # -- globals and modules -------------------------------------------------------------------------------------

    def _global(self, scope: dict[str, Any], chain: tuple[str, ...], library: bool) -> None:
        """``config.model.k``, where ``config`` is a module: what stands behind the modules."""
        if (tells := TOLD.get(chain[0])) is not None and scope.get(chain[0], tells) is tells:
            if not library:
                self.watch_ids(scope, chain[0])
            return
        if chain[0] in _EVERYTHING and chain[0] not in scope and not library:
            self._everything(scope)
        for i, name in enumerate(chain):
            value = scope.get(name, MISSING)
            if isinstance(value, types.FunctionType | types.BuiltinFunctionType) and value in INSTEAD:
                value = self.stand_in(scope, name, *INSTEAD[value])
            if isinstance(value, types.ModuleType):
                if is_machinery(value.__name__):
                    if not library:
                        self._standard(value, chain[i + 1 :], ".".join(chain))
                    return
                if i + 1 < len(chain):
                    scope = vars(value)
                else:
                    self.meet(value, ".".join(chain))
                continue
            if isinstance(value, types.FunctionType | type) and is_library(scope.get("__file__") or ""):
                if isinstance(value, types.FunctionType):
                    self.meet(value, name)  # nobody puts another one in its place
            elif value is MISSING:
                if not library:  # a builtin, which a name of the module may stand in front of
                    self.place(scope, name, MISSING, ".".join(chain[: i + 1]))
                    self.made_up(scope)
            else:
                self.place(scope, name, value, ".".join(chain[: i + 1]))
                if isinstance(value, type) and is_machinery(value.__module__) and not library:
                    self._standard(value, chain[i + 1 :], ".".join(chain))
            return

    def made_up(self, scope: dict[str, Any]) -> None:
        """A module has no such name, but may have a ``__getattr__`` for it."""
        self.place(scope, "__getattr__", scope.get("__getattr__", MISSING), "__getattr__")

    def _everything(self, scope: dict[str, Any]) -> None:
        """``globals()["scale"]``, ``eval("scale")``: any of the names of a module."""
        for name, value in list(scope.items()):
            if not name.startswith("__") and not isinstance(value, types.ModuleType):
                self.place(scope, name, value, name)

    def _standard(self, owner: Any, chain: tuple[str, ...], name: str) -> None:
        """``os.environ``, ``time.time``, ``torch.backends.cudnn.benchmark``, ``datetime.now``."""
        holder, key, value = named(owner, chain)
        if (asks := question(value)) is not None:
            self._asks(asks, value, name)
        elif key:  # torch.relu, too: another function may be put there
            code = getattr(value, "__code__", None)
            own = not isinstance(value, CALLED) or (code is not None and is_user_code(code))
            self.place(holder, key, value, name, attribute=True, inside=own)

    def _asks(self, what: Question | None, function: Any, name: str) -> None:
        if isinstance(what, Kind):
            if what not in OF_A_LIBRARY or not self.states.knows(what):
                self.states.meet(function, what, f"{name}()")
        elif what is not None:
            self.meet(what(), name)

    def _imported(self, name: str) -> None:
        """``import settings`` inside a function."""
        module = sys.modules.get(name)
        if module is not None:
            if not (is_machinery(name) or is_library_module(name)):  # nobody takes these out again
                self.place(sys.modules, name, module, f"sys.modules.{name}")
            self.meet(module, name)
        elif not is_machinery(name):
            self.again = self.again or f"the module {name!r}, which the program imports,"

    def _module(self, value: types.ModuleType, name: str) -> None:
        """A module that the program can ask for anything: ``getattr(settings, name)``."""
        if not is_machinery(value.__name__) and not is_library_module(value.__name__) and asked.watch_module(value):
            self.keep(vars(value))


_Meeting = Callable[[Any, Any, str], None]
_MEETINGS: list[tuple[Any, _Meeting]] = [
    (torch.Tensor, Meetings._tensor),
    ((dict, list, set, collections.deque), Meetings._container),
    ((tuple, frozenset), Meetings._fixed),
    (types.FunctionType, Meetings._function),
    (types.MethodType, Meetings._method),
    ((types.BuiltinFunctionType, types.MethodWrapperType), Meetings._builtin),
    (functools.partial, Meetings._partial),
    (functools._lru_cache_wrapper, Meetings._remembering),
    ((staticmethod, classmethod, property, functools.cached_property), Meetings._descriptor),
    (weakref.ProxyTypes, Meetings._inside),
    ((types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items())), Meetings._inside),
    (types.ModuleType, Meetings._module),
    (type, Meetings._class),
    (CARRIERS, Meetings._carrier),
]
