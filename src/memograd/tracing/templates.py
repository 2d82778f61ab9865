"""The values that a program leaves behind, as each run of its graph makes them anew: with its own tensors in the place
of those of the capture."""

from __future__ import annotations

import collections
import copy
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from memograd._torch import attributes_of
from memograd.errors import CaptureError
from memograd.tracing.callables import build_of
from memograd.tracing.counters import Counted, Counter, look
from memograd.tracing.given import Given, Path, containers
from memograd.tracing.handles import Standing, another, standing
from memograd.tracing.hidden import hidden_tensor
from memograd.tracing.holders import MISSING, Attributes, dict_of, slots_of
from memograd.tracing.mutation import Step
from memograd.tracing.names import is_machinery
from memograd.tracing.reachable import objects
from memograd.tracing.reads import Reads


@dataclass(frozen=True)
class Run:
    """What the values left by one run of a graph are made of."""

    left: Sequence[torch.Tensor]  # its results of kind ``left``
    inputs: Mapping[str, Any]
    arguments: Any = None  # None where nobody shall see it write to them
    made: dict[int, Any] = field(default_factory=dict)  # by id of the template: two places may hold one object
    hooks: list[Standing] = field(default_factory=list)  # whose handles it leaves

    @cached_property
    def given(self) -> dict[Path, Any]:
        """The containers among its arguments."""
        return dict(containers(self.arguments))


Build = Callable[[Run], Any]


class Templates:
    """Values as the program made them, with the tensors that each run puts in the place of captured ones.

    Args:
        reads: what was the user's before.
        given: the containers among the arguments.
        stand_ins: names of the graph's inputs by id of the tensor that stands for them.
        captured: whether a tensor was computed by the program.
        memory: the tensor as which the memory was first seen that a tensor looks at, the views that lead there, and
            whether with another history.

    Attributes:
        left: captured tensors that are left behind, in the order of the results they become.
    """

    def __init__(
        self,
        reads: Reads,
        given: Given,
        stand_ins: Mapping[int, str],
        captured: Callable[[torch.Tensor], bool],
        memory: Callable[[torch.Tensor], tuple[torch.Tensor, list[Step], bool]],
    ) -> None:
        self.reads = reads
        self.users = reads.names
        self.places = reads.tensors
        self.given = given
        self.stand_ins = stand_ins
        self.captured, self.memory = captured, memory
        self.whole: dict[int, int] = {}  # by id of a tensor that is left, and all of its memory: which result it is
        self.left: list[torch.Tensor] = []
        self.returning = False  # whoever called the program will see what is asked for
        self.hooks = False  # what is asked for is called after the run: variables of functions are each run's own
        self.handles: set[int] = set()  # ids of the handles of hooks that each run registers
        self.hooked: Mapping[int, tuple[Any, str]] = {}  # by id: handles of hooks that are in the graph
        self._builds: dict[int, Build | None] = {}
        self._alive: list[Any] = []

    def of(self, value: Any) -> Build:
        """How a run makes its own ``value``."""
        return self.own(value) or (lambda _: value)

    def own(self, value: Any) -> Build | None:
        """The same; None where ``value`` itself will do."""
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if type(value) is Counted:
            return _count(value, self.returning)
        if (id(value) in self.users and not isinstance(value, tuple)) or value is MISSING:
            return None
        if id(value) not in self._builds:
            self._alive.append(value)
            is_function = isinstance(value, types.FunctionType)  # which is there before what it encloses
            self._builds[id(value)] = (
                (lambda run: run.made[id(value)]) if is_function else None
            )  # where it holds itself
            build = self._once(value, self._parts(value))
            if build is None:
                self.refuse_hidden(value)
            path = self.given.paths.get(id(value))
            self._builds[id(value)] = build if path is None else _argument(path, build)
        return self._builds[id(value)]

    def refuse_hidden(self, value: Any, name: str = "") -> None:
        """Raises CaptureError where ``value`` holds a tensor of the capture, out of our reach."""
        if hidden_tensor(value, self._is_own, self._is_users(value)):
            self.reads.states.put_back()
            cls = type(value)
            what = f"{name!r}, of type" if name else "an object of type"
            raise CaptureError(
                f"the program leaves a tensor in {what} {cls.__module__}.{cls.__qualname__}, which a graph cannot make "
                "anew at each run; leave the tensor itself, in an attribute, a list or a dict"
            )

    def refuse_kept(self, hook: Any, name: str) -> None:
        """Raises CaptureError where a hook that is called when the graph runs holds what each run makes anew: it would
        write to that of the capture."""
        anew = next((v for v in objects(hook) if self._builds.get(id(v)) is not None), None)
        if anew is not None and not isinstance(anew, torch.Tensor | tuple | frozenset):
            raise CaptureError(
                f"{name} keeps what it hears in a {type(anew).__name__} that each call of the program makes "
                "anew, and no graph can tell it which. Make that once, outside of the program, and clear it there; or "
                "let the hook ask for it when it is called (self.kept.append(g) in a function of your own)"
            )

    def _is_users(self, but: Any) -> Callable[[Any], bool]:
        return lambda part: id(part) in self.users and part is not but

    def _is_own(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.stand_ins or self.captured(tensor)

    def notes(self, tensor: torch.Tensor) -> dict[str, Build]:
        """How a run makes what the program has noted on a tensor of its own."""
        return {k: self.of(v) for k, v in attributes_of(tensor).items()} if self._is_own(tensor) else {}

    def _tensor(self, tensor: torch.Tensor) -> Build | None:
        build = self._bare(tensor)
        if build is None or id(tensor) in self.stand_ins or not (notes := self.notes(tensor)):
            return build

        def build_noted(run: Run) -> Any:
            made = build(run)
            vars(made).update({k: b(run) for k, b in notes.items()})
            return made

        return self._once(tensor, build_noted)

    def _bare(self, tensor: torch.Tensor) -> Build | None:
        if (name := self.stand_ins.get(id(tensor))) is not None:
            return lambda run: run.inputs[name]
        if not self.captured(tensor):
            place = self.places.get(id(tensor))  # moved, as ``self.before = self.last`` does: what is there by then
            return None if place is None else lambda _: place.get()
        at = next((i for i, t in enumerate(self.left) if t is tensor), len(self.left))
        if at == len(self.left):
            self.left.append(tensor)
        base, way, apart = self.memory(tensor)
        if (name := self.stand_ins.get(id(base))) is not None and (apart or way):
            return lambda run: _seen_through(run.inputs[name], way, apart)
        if not tensor.requires_grad:
            return self._sharing(base, way, at)
        if isinstance(tensor, nn.Parameter):  # of a module that the program has made
            trained = tensor.requires_grad
            return self._once(tensor, lambda run: nn.Parameter(run.left[at].detach(), trained))
        return lambda run: run.left[at]

    def _sharing(self, base: torch.Tensor, way: Sequence[Step], at: int) -> Build:
        """Result ``at``, which lies in one memory with other tensors that are left behind: what is written to one of
        them later is seen in all."""
        if not way:
            self.whole.setdefault(id(base), at)

        def build(run: Run) -> torch.Tensor:
            whole = self.whole.get(id(base), at)
            return run.left[at] if whole == at else _seen_through(run.left[whole], way, True)

        return build

    def _once(self, value: Any, build: Build | None) -> Build | None:
        if build is None:
            return None

        def once(run: Run) -> Any:
            if id(value) not in run.made:
                run.made[id(value)] = build(run)
            return run.made[id(value)]

        return once

    def _parts(self, value: Any) -> Build | None:
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
            return self._items(value)
        if type(value) is weakref.ref:
            return self._weakly(value)
        if id(value) in self.handles:
            return lambda run: run.made[id(value)]
        if id(value) in self.hooked:
            return _handle(*self.hooked[id(value)])
        if isinstance(value, type | types.ModuleType):
            return None
        if callable(value) and not isinstance(value, nn.Module):
            return self._callable(value)
        return self._object(value)

    def _callable(self, value: Any) -> Build | None:
        """A hook of the program's, or what holds a tensor of its own."""
        if not self.hooks and not hidden_tensor(value, self._is_own, self._is_users(value)):
            return None
        build = build_of(value, self.own, lambda cell: id(cell) in self.reads.before)
        return build or (None if is_machinery(type(value).__module__) else self._object(value))

    def _object(self, value: Any) -> Build | None:
        """With attributes of its own, in a dict or in slots."""
        own, slots = dict_of(value) or {}, Attributes(value, slots_of(type(value)))
        builds = {k: self.own(v) for k, v in own.items()}
        in_slots = {k: self.own(v) for k, v in slots.contents().items()}
        if not any((*builds.values(), *in_slots.values())):
            return None

        def build(run: Run) -> Any:
            made = copy.copy(value)
            if own:
                vars(made).update({k: b(run) for k, b in builds.items() if b is not None})
            for k, b in in_slots.items():
                if b is not None:
                    object.__setattr__(made, k, b(run))
            return made

        return build

    def _weakly(self, value: weakref.ref[Any]) -> Build | None:
        build, callback = self.own(value()), value.__callback__
        return None if build is None else lambda run: weakref.ref(build(run), callback)

    def _dict(self, value: dict[Any, Any]) -> Build:
        made_keys = ((k, self.own(k)) for k in value)
        keys = {k: build for k, build in made_keys if build is not None}
        builds = {k: self.own(v) for k, v in value.items()}

        def build(run: Run) -> Any:
            made = copy.copy(value)
            dict.update(made, {k: b(run) for k, b in builds.items() if b is not None})
            if keys:
                items = [(keys[k](run) if k in keys else k, v) for k, v in dict.items(made)]
                dict.clear(made)
                dict.update(made, items)
            return made

        return build

    def _items(self, value: Any) -> Build | None:
        builds = [self.of(v) for v in value]
        if isinstance(value, (tuple, frozenset)) and not any(self.own(v) for v in value):
            return None
        if isinstance(value, collections.deque):
            return lambda run: collections.deque([b(run) for b in builds], value.maxlen)
        make: Any = getattr(type(value), "_make", type(value))  # of a named tuple
        return lambda run: make([b(run) for b in builds])


def _argument(path: Path, build: Build | None) -> Build:
    """The argument of this run that stands there; a copy of the captured one where it is not to be written to."""

    def argument(run: Run) -> Any:
        if run.arguments is not None:
            return run.given[path]
        return build(run) if build is not None else None

    return argument


def _seen_through(tensor: torch.Tensor, way: Sequence[Step], apart: bool) -> torch.Tensor:
    tensor = tensor.detach() if apart else tensor
    with torch.set_grad_enabled(not apart):
        for view, args, kwargs, index in way:
            seen = view(tensor, *args, **kwargs)
            tensor = seen if index is None else seen[index]
    return tensor


def _handle(handle: Any, name: str) -> Build | None:
    if not standing(handle):
        return None

    def build(run: Run) -> Any:
        own, hook = another(handle, name)
        run.hooks.append(hook)
        return own

    return build


def _count(value: Counted, seen: bool) -> Build:
    counter: Counter = value._counter
    if counter.looked or seen:
        number = look(value)
        return lambda _: number
    added = value._added
    return lambda _: counter.table[counter.name] + added
