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
those that the program gets hold of, everything inside counts as read (``meetings.py``).
"""

from __future__ import annotations

import collections
import operator
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from memograd._torch import parametrized_values
from memograd.tracing import asked
from memograd.tracing.audited import audited
from memograd.tracing.counters import Counters, remember
from memograd.tracing.grown import Classes
from memograd.tracing.holders import MISSING, Attributes, Holder, Parametrized, dict_of, holder_of, slots_of
from memograd.tracing.ids import TOLD, values_in
from memograd.tracing.keys import compares_itself, held_by
from memograd.tracing.kinds.kind import ANSWER, UNKNOWN
from memograd.tracing.kinds.libraries import PARAMETRIZED
from memograd.tracing.meetings import Meetings
from memograd.tracing.names import is_machinery
from memograd.tracing.provenance import hooks_of_every_module
from memograd.tracing.states import States

_HOOKS = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict))


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
            value = getattr(self.holder, self.key) if self.attribute else getter_of(self.holder)(self.holder, self.key)
            for i in self.within:
                value = value[i]
            return value
        except (KeyError, IndexError, AttributeError, ValueError, TypeError):  # a cell without content has ValueError
            return MISSING


def getter_of(container: Any) -> Callable[[Any, Any], Any]:
    """What gets an item of ``container``, whatever a class of the user's makes of ``container[key]``."""
    kind = next((k for k in (dict, list, collections.deque) if isinstance(container, k)), None)
    return operator.getitem if kind is None else kind.__getitem__


@dataclass(frozen=True)
class Key:
    """Where a tensor stands that is a key of a dict, a member of a set, or held weakly: the same one as long as the
    graph is used. ``get`` tells it; None where it was held weakly, and is gone."""

    get: Callable[[], Any]
    name: str


def tensors_in(value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    """``value`` if it is a tensor; those in it, and where, if it is a tuple."""
    if isinstance(value, torch.Tensor):
        yield within, value
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from tensors_in(item, (*within, i))


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


class Reads(Meetings):
    """What one capture has seen so far. ``roots`` are what the program is given to begin with, by name;
    ``counts``: it gets counters in the place of numbers that it counted up last time.

    Attributes:
        places: the places read and what stood there, by (id of holder, key).
        before: what can hold values and the program has got hold of, and what it held; by id. Of an object its
            ``__dict__``.
        tensors: where each tensor met stands, by its id.
        keys: the same of those by which something is found, and of those that are held weakly.
        states: what else the program has met, by its state.
        classes: the classes whose attributes it may ask for.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], counts: bool = False) -> None:
        self.places: dict[tuple[int, Any], tuple[Place, Any]] = {}
        self.before: dict[int, tuple[Holder, Any]] = {}
        self.tensors: dict[int, Place] = {}
        self.keys: dict[int, Key] = {}
        self.containers: list[Any] = []  # dicts, lists and sets that count as read with all they hold
        self._instead: list[tuple[dict[str, Any], str, Any, Any]] = []  # what stands in modules as the program runs
        self.asking: list[tuple[dict[str, Any], str]] = []  # modules of code that asks for ids, and how
        self.names: dict[int, str] = {}  # a path for messages, by id of what was met
        self._classes: dict[type, Any] = {}
        self.classes = Classes()
        self._alive: list[Any] = []  # so that ids stay unique
        self._seen: set[tuple[int, str]] = set()
        self.states = States()
        self.again = ""
        self.remembering = []
        self.counters = Counters()
        self.counts = counts
        self._modules = self._recording = False
        self._owners: dict[tuple[int, str], Any] = {}  # of whole numbers, by id of their ``__dict__`` and name
        self._busy = False
        self._depth = 0  # library functions called by library functions, on the way to what is met
        for name, root in (*roots, *(("hook", hook) for hook in hooks_of_every_module())):
            self.meet(root, name)

    @contextmanager
    def recording(self, alone: bool = False) -> Iterator[None]:
        """What runs inside is the program; ``alone``: and no part of a program around it."""
        instead = self.counters.of if self.counts else None
        with asked.listening(self.attribute, instead, alone), audited(self._looked_at):
            self._recording = True
            if self._modules:
                asked.watch(nn.Module)
            try:
                for scope, name, _, own in self._instead:
                    scope[name] = own
                yield
            finally:
                for scope, name, value, own in self._instead:
                    if scope.get(name) is own:
                        scope[name] = value

    def watch_modules(self) -> None:
        """From the first one on that the program gets hold of: Python goes through all subclasses of a class whose
        ``__getattribute__`` is set, and ``nn.Module`` has hundreds."""
        self._modules = True
        if self._recording:
            asked.watch(nn.Module)

    def _looked_at(self, name: str, again: Callable[[], Any] | None) -> None:
        """A file, or how it stands with one."""
        if again is None:
            self.states.meet(self, UNKNOWN, name)
        else:
            self.states.meet(again, ANSWER, name)

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
            held = [own[table] for table in ("_parameters", "_buffers", "_modules") if table in own]
            tables += [table for table in held if isinstance(table, dict)]  # those of a scripted module are in C++
        befores = [self.keep(table) for table in tables]
        if name == asked.MACHINERY:
            return
        if name == "__dict__":
            self.meet(own, path)
            return
        if name == "parametrizations" and isinstance(owner, nn.Module):
            self._parametrized()
        for table, before in zip(tables, befores, strict=True):
            if name in table or name in before:
                if name in _HOOKS and isinstance(owner, nn.Module):
                    self.meet(table[name], f"{path}.{name}")  # always the same dict
                elif table.get(name, MISSING) is before.get(name, MISSING):  # else it is the program's own doing
                    self.place(table, name, table[name], f"{path}.{name}".lstrip("."))
                    if type(table[name]) is int:
                        self._owners[id(table), name] = owner
                return
        for cls in type(owner).__mro__:
            if name in vars(cls):
                self._of_class(owner, own, cls, name, path)
                return
        for table in tables:  # hasattr(owner, name), or a name that __getattr__ makes up
            self.place(table, name, MISSING, f"{path}.{name}")
            if isinstance(owner, types.ModuleType):
                self.made_up(table)

    def _of_class(self, owner: Any, own: dict[str, Any] | None, cls: type, name: str, path: str) -> None:
        entry = vars(cls)[name]
        if isinstance(entry, types.MemberDescriptorType):  # of __slots__
            value = Place(owner, name, "", attribute=True).get()
            if self.keep_slots(owner).get(name, MISSING) is value:
                self.place(owner, name, value, f"{path}.{name}", attribute=True)
            return
        users = not is_machinery(cls.__module__)
        if own is not None and (users or name == "forward"):
            self.place(own, name, MISSING, f"{path}.{name}")  # the instance may get one of its own
        if users or name == "forward":  # that of a layer of PyTorch's may be replaced, too
            self.place(self.attributes_of(cls), name, entry, f"{cls.__qualname__}.{name}")

    def _parametrized(self) -> None:
        """``parametrize.cached()``: the tensors that it keeps may come from earlier calls, and serve later ones."""
        values = parametrized_values()
        if not self.states.knows(PARAMETRIZED):
            self.states.meet(self, PARAMETRIZED, "parametrize.cached()")
            for key, tensor in self.keep(values, Parametrized()).items() if values is not None else ():
                self.place(values, key, tensor, f"the cached {key[1]}")

    def counted_up(self, changes: Iterable[tuple[Holder, Any, Any, str]]) -> None:
        """What the program has left: remember the numbers that it read before."""
        for holder, key, value, _ in changes:
            owner = self._owners.get((id(holder.holder), key)) if isinstance(key, str) else None
            if owner is not None and type(value) is int:
                remember(owner, key)
        if any(c.looked for c in self.counters.handed.values()):
            self.counters.forget()

    def met(self) -> list[tuple[str, Any]]:
        """What has been met, but for tensors, by name: where something begins that goes on from this run (its
        backward pass)."""
        return [(self.names[id(x)], x) for x in self._alive if id(x) in self.names and not isinstance(x, torch.Tensor)]

    def attributes_of(self, cls: type) -> Any:
        """``vars(cls)``, which is another object each time, always as the same one."""
        return self._classes.setdefault(cls, vars(cls))

    def keep(self, container: Any, holder: Holder | None = None) -> Any:
        """What ``container`` held when the program first got hold of it."""
        if id(container) not in self.before:
            holder = holder or holder_of(container)
            self._alive.append(container)
            self.before[id(container)] = (holder, holder.contents())
        return self.before[id(container)][1]

    def key(self, value: Any, name: str) -> None:
        """``value`` is a key of a dict, or a member of a set."""
        self.meet(value, f"a key of {name}")
        if not compares_itself(value):
            return
        for held in held_by(value):
            if isinstance(held, torch.Tensor):
                self.keys.setdefault(id(held), Key(partial(_itself, held), f"a key of {name}"))
            elif isinstance(held, weakref.ref):
                self.weakly(held, name)

    def weakly(self, reference: weakref.ref[Any], name: str) -> None:
        """The program gets hold of what ``reference`` is of, and does not keep it alive."""
        if isinstance(tensor := reference(), torch.Tensor):
            self.keys.setdefault(id(tensor), Key(weakref.ref(tensor), name))

    def found(self, tensor: torch.Tensor | None) -> Place | Key | None:
        """Where the program has found ``tensor``."""
        return self.tensors.get(id(tensor)) or self.keys.get(id(tensor))

    def watch_ids(self, scope: dict[str, Any], name: str) -> None:
        """The program asks for ids, by the builtin of this ``name``: by ours in this module, while it is captured."""
        if self.counts and name not in scope:
            scope[name] = TOLD[name]
            self.asking.append((scope, name))

    def stand_in(self, scope: dict[str, Any], name: str, value: Any, own: Any) -> Any:
        """As the program runs, ``own`` is what a module has in the place of ``value``, a function that it imported;
        returns that."""
        if scope[name] is not own:  # else it is, by who runs the program around this one
            self._instead.append((scope, name, value, own))
            if self._recording:
                scope[name] = own
        return value

    def forget_ids(self) -> None:
        """The program has run."""
        for scope, name in self.asking:
            scope.pop(name, None)
        self.asking.clear()

    def held(self) -> tuple[frozenset[int], str]:
        """The whole numbers that the program has got hold of and that may be ids, and the texts that may have one."""
        values = [value for _, value in self.places.values()] + [before for _, before in self.before.values()]
        held = set(values_in(values))
        texts = "\n".join(sorted(x for x in held if isinstance(x, str))).lower()
        return frozenset(x for x in held if isinstance(x, int)), texts

    def keep_slots(self, owner: Any) -> dict[str, Any]:
        return self.keep(owner, Attributes(owner, slots_of(type(owner))))

    def place(self, holder: Any, key: Any, value: Any, name: str, attribute: bool = False, inside: bool = True) -> None:
        if (id(holder), key) not in self.places:
            self._alive.append(holder)
            place = Place(holder, key, name, attribute)
            self.places[id(holder), key] = (place, value)
            for within, tensor in tensors_in(value):
                path = "".join(f".{i}" for i in within)
                self.tensors.setdefault(id(tensor), replace(place, name=f"{name}{path}", within=within))
            if inside:
                self.meet(value, name)
