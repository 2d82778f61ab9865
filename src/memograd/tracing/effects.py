"""What a program leaves behind in objects of the user's, besides what it returns: taken back, and made to happen anew.

Capture runs on stand-ins, which nobody must find in a module afterwards. So whatever the program has changed is put
back, and remembered as *effects*: each time the graph has run they leave what PyTorch would have left::

    self.steps += 1              # the number 1 where there was 0
    self.last = loss             # the loss of this run: one more result of the graph
    self.seen.append(h)          # a list with one more entry, the hidden state of this run
"""

from __future__ import annotations

import collections
import copy
import gc
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from memograd.tracing.counters import Counted, Counter, look
from memograd.tracing.holders import MISSING, Holder, Keyed, dict_of
from memograd.tracing.mutation import Step
from memograd.tracing.reachable import reachable
from memograd.tracing.reads import Reads

Change = tuple[Holder, Any, Any, str]  # what was changed, the key (None: all of it), the new value, its name


def take_back(reads: Reads) -> list[Change]:
    """Put back everything that the program has changed; returns what that was."""
    changes: list[Change] = []
    for holder, before in reads.before.values():
        if holder.holder is sys.modules:  # what was imported on the way stays so: nothing is to be imported twice
            continue
        now: Any = holder.contents()
        name = reads.names.get(id(holder.holder), "")
        if isinstance(holder, Keyed):
            keys = [k for k in {**before, **now} if now.get(k, MISSING) is not before.get(k, MISSING)]
            changes += [(holder, k, now.get(k, MISSING), f"{name}.{k}") for k in keys]
            moved = _moved(before, now) if isinstance(holder.holder, dict) else []
            changes += [(holder, k, MISSING, f"{name}.{k}") for k in moved]
            changes += [(holder, k, now[k], f"{name}.{k}") for k in moved]
            altered = bool(keys or moved)
        else:
            altered = _differ(before, now)
            changes += [(holder, None, now, name)] * altered
        if altered:
            holder.put_back(before)
    for function, misses in reads.remembering:
        _forget(function, misses)
    return changes


def _forget(function: Any, misses: int) -> None:
    """A ``functools.cache`` that has got a tensor of a capture, or of a run that nobody shall notice, forgets it."""
    if function.cache_info().misses != misses and reachable(*gc.get_referents(function)):
        function.cache_clear()


def _moved(before: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    """The keys that must be taken out and put in again for their order, which a dict keeps, to be that of ``now``."""
    if list(before) == list(now):
        return []
    order = list({**{k: None for k in before if k in now}, **now})
    first = next((i for i, (a, b) in enumerate(zip(order, now, strict=True)) if a != b), len(now))
    return list(now)[first:]


def _differ(before: Any, now: Any) -> bool:
    if isinstance(now, set):
        return before != now
    return len(before) != len(now) or any(a is not b for a, b in zip(before, now, strict=True))


@dataclass(frozen=True)
class Run:
    """What the values left by one run of a graph are made of."""

    left: Sequence[torch.Tensor]  # its results of kind ``left``
    inputs: Mapping[str, Any]
    made: dict[int, Any] = field(default_factory=dict)  # by id of the template: two places may hold one object


Build = Callable[[Run], Any]


@dataclass(frozen=True)
class Effect:
    """``holder`` is given a new value for ``key``, or new contents."""

    holder: Holder
    key: Any
    build: Build
    name: str

    def happen(self, value: Any) -> None:
        if isinstance(self.holder, Keyed):
            self.holder.assign(self.key, value)
        else:
            self.holder.put_back(value)


class Templates:
    """Values as the program made them, with the tensors that each run puts in the place of captured ones.

    Args:
        reads: what was the user's before.
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
        stand_ins: Mapping[int, str],
        captured: Callable[[torch.Tensor], bool],
        memory: Callable[[torch.Tensor], tuple[torch.Tensor, list[Step], bool]],
    ) -> None:
        self.users = reads.names
        self.places = reads.tensors
        self.stand_ins = stand_ins
        self.captured, self.memory = captured, memory
        self.whole: dict[int, int] = {}  # by id of a tensor that is left, and all of its memory: which result it is
        self.left: list[torch.Tensor] = []
        self.returning = False  # whoever called the program will see what is asked for
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
            self._builds[id(value)] = None  # where it holds itself
            self._builds[id(value)] = self._once(value, self._parts(value))
        return self._builds[id(value)]

    def _tensor(self, tensor: torch.Tensor) -> Build | None:
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
        own = dict_of(value)
        if own is None or isinstance(value, type | types.ModuleType):
            return None
        if callable(value) and not isinstance(value, nn.Module):
            return None
        builds = {k: self.own(v) for k, v in own.items()}
        if not any(builds.values()):
            return None

        def build(run: Run) -> Any:
            made = copy.copy(value)
            vars(made).update({k: b(run) for k, b in builds.items() if b is not None})
            return made

        return build

    def _dict(self, value: dict[Any, Any]) -> Build:
        builds = {k: self.own(v) for k, v in value.items()}

        def build(run: Run) -> Any:
            made = copy.copy(value)
            dict.update(made, {k: b(run) for k, b in builds.items() if b is not None})
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


def _seen_through(tensor: torch.Tensor, way: Sequence[Step], apart: bool) -> torch.Tensor:
    tensor = tensor.detach() if apart else tensor
    with torch.set_grad_enabled(not apart):
        for view, args, kwargs, index in way:
            seen = view(tensor, *args, **kwargs)
            tensor = seen if index is None else seen[index]
    return tensor


def _count(value: Counted, seen: bool) -> Build:
    counter: Counter = value._counter
    if counter.looked or seen:
        number = look(value)
        return lambda _: number
    added = value._added
    return lambda _: counter.table[counter.name] + added


class Effects:
    """The effects of one program.

    Attributes:
        returned: how to make objects that the program returns and that hold tensors of its own (a dataclass), by their
            position among the leaves of what it returns.
    """

    def __init__(self, effects: Sequence[Effect], returned: Mapping[int, Build] | None = None) -> None:
        self.effects = tuple(effects)
        self.returned = returned or {}

    def __bool__(self) -> bool:
        return bool(self.effects)

    def happen(self, left: Sequence[torch.Tensor], inputs: Mapping[str, Any]) -> dict[int, Any]:
        """The graph has run; gives what is ``returned``."""
        run = Run(left, inputs)
        values = [effect.build(run) for effect in self.effects]  # of counters, before they go up
        for effect, value in zip(self.effects, values, strict=True):
            effect.happen(value)
        return {position: build(run) for position, build in self.returned.items()}


def effects_of(changes: Sequence[Change], templates: Templates, returned: Sequence[Any] = ()) -> Effects:
    """``returned``: the leaves of what the program returns."""
    templates.returning = True
    builds = {k: templates.own(x) for k, x in enumerate(returned) if not isinstance(x, torch.Tensor)}
    templates.returning = False
    effects = [Effect(holder, key, templates.of(value), name) for holder, key, value, name in changes]
    return Effects(effects, {k: build for k, build in builds.items() if build is not None})
