"""What a program leaves behind in objects of the user's, besides what it returns: taken back, and made to happen anew.

Capture runs on stand-ins, which nobody must find in a module afterwards. So whatever the program has changed is put
back, and remembered as *effects*: each time the graph has run they leave what PyTorch would have left::

    self.steps += 1              # the number 1 where there was 0
    self.last = loss             # the loss of this run: one more result of the graph
    self.seen.append(h)          # a list with one more entry, the hidden state of this run
    batch["logits"] = h          # an argument: the dict that this run is given
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from memograd.errors import CaptureError
from memograd.tracing.caches import forget
from memograd.tracing.given import Way, containers
from memograd.tracing.handles import refuse_removed
from memograd.tracing.holders import MISSING, Holder, Keyed, OfATensor
from memograd.tracing.keys import shown
from memograd.tracing.reads import Reads
from memograd.tracing.registered import Registration, register
from memograd.tracing.templates import Build, Run, Templates
from memograd.tracing.warned import Warned

Change = tuple[Holder, Any, Any, str]  # what was changed, the key (None: all of it), the new value, its name


def take_back(reads: Reads) -> list[Change]:
    """Put back everything that the program has changed; returns what that was."""
    changes: list[Change] = []
    for holder, before in reads.before.values():
        if holder.holder is sys.modules:  # what was imported on the way stays so: nothing is to be imported twice
            continue
        altered = changes_of(holder, before, reads.names.get(id(holder.holder), ""))
        changes += altered
        if altered:
            holder.put_back(before)
    for function, asked in reads.remembering:
        forget(function, asked)
    return changes


def changes_of(holder: Holder, before: Any, name: str) -> list[Change]:
    """What ``holder`` holds that it did not hold before."""
    now: Any = holder.contents()
    if not isinstance(holder, Keyed):
        return [(holder, None, now, name)] if _differ(before, now) else []
    keys = [k for k in {**before, **now} if now.get(k, MISSING) is not before.get(k, MISSING)]
    moved = _moved(before, now) if isinstance(holder.holder, dict) else []
    changes = [(k, now.get(k, MISSING)) for k in keys] + [(k, MISSING) for k in moved] + [(k, now[k]) for k in moved]
    return [(holder, k, value, f"{name}.{shown(k)}") for k, value in changes]


def _moved(before: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    """The keys that must be taken out and put in again for their order, which a dict keeps, to be that of ``now``."""
    at = {key: i for i, key in enumerate(now)}  # no key is compared with others by ==: a tensor has no answer to that
    order = [at[key] for key in {**{k: None for k in before if k in now}, **now}]
    first = next((i for i, k in enumerate(order) if i != k), len(now))
    return list(now)[first:]


def _differ(before: Any, now: Any) -> bool:
    if isinstance(now, set):
        return before != now
    return len(before) != len(now) or any(a is not b for a, b in zip(before, now, strict=True))


@dataclass(frozen=True)
class Effect:
    """``holder`` is given a new value for ``key``, or new contents; what stands there among the arguments, if ``way``
    says where. ``key_of``: how a run makes the key, where that is not always the same (a tensor of the program's)."""

    holder: Holder
    key: Any
    build: Build
    name: str
    way: Way | None = None
    key_of: Build | None = None

    def holder_in(self, run: Run) -> Holder | None:
        """What is written to; None where nobody shall see that."""
        if self.way is None:
            if isinstance(self.holder, OfATensor) and self.holder.name:
                return self.holder.of(run.inputs[self.holder.name])
            return self.holder
        return None if run.arguments is None else self.way.holder(run.given, self.holder)

    def happen(self, holder: Holder, key: Any, value: Any) -> None:
        if isinstance(holder, Keyed):
            holder.assign(key, value)
        else:
            holder.put_back(value)


class Effects:
    """The effects of one program.

    Attributes:
        returned: how to make objects that the program returns and that hold tensors of its own (a dataclass), by their
            position among the leaves of what it returns.
        noted: how to make what the program has noted on tensors that it returns, by the same position.
        hooks: those that each run registers on its inputs.
        warned: what each run warns of.
    """

    def __init__(
        self,
        effects: Sequence[Effect],
        returned: Mapping[int, Build] | None = None,
        noted: Mapping[int, Mapping[str, Build]] | None = None,
        held: Sequence[Any] = (),
        hooks: Sequence[Registration] = (),
        warned: Sequence[Warned] = (),
    ) -> None:
        """``held``: the dicts and lists that the program got hold of besides its arguments."""
        self.effects = tuple(effects)
        self.hooks = tuple(hooks)
        self.warned = tuple(warned)
        self.returned = returned or {}
        self.noted = noted or {}
        self._held = {id(c): c for c in held}
        self._given = {e.way.path: e.name for e in effects if e.way is not None}  # what is written to, and where it is
        self._own = {id(e.holder.holder): e.name for e in effects if e.way is None}

    def __bool__(self) -> bool:
        return bool(self.effects or self.hooks or self.warned)

    @property
    def on_results(self) -> bool:
        """Whether something is to be done with what the program returns."""
        return bool(self.returned or self.noted)

    @property
    def writes_arguments(self) -> bool:
        """Whether the program writes to dicts, lists or objects that it is given."""
        return bool(self._given)

    @property
    def forgotten(self) -> list[str]:
        """The names of the gradients that the program sets to None."""
        return [e.name for e in self.effects if isinstance(e.holder, OfATensor) and e.key == "grad"]

    def woken(self, inputs: Mapping[str, Any], arguments: Any) -> list[torch.Tensor]:
        """The tensors among what a graph is bound to and its arguments that the program lets require a gradient, and
        that do not by now."""
        run = Run((), inputs, arguments)
        wakes = [e for e in self.effects if isinstance(e.holder, OfATensor) and e.key == "requires_grad"]
        holders: list[Any] = [e.holder_in(run) for e in wakes if e.build(run)]
        return [h.holder for h in holders if not h.holder.requires_grad]

    def refuse_one_in_two_places(self, arguments: Any) -> None:
        """Raises CaptureError where what the program writes to is reached in another way too: a capture has two dicts
        in the place of one, and who reads the one would not see what was written to the other."""
        given = list(containers(arguments))
        count = collections.Counter(id(container) for _, container in given)
        for path, container in given:
            name = self._own.get(id(container), "")
            if path in self._given and (count[id(container)] > 1 or id(container) in self._held):
                name = self._given[path]
            if name:
                raise CaptureError(
                    f"the program writes to a {type(container).__name__} ({name}) that it is given in two places, or "
                    "is given and holds itself: a graph takes that for two, and one would not see what is written to "
                    "the other; pass a copy"
                )

    def begin(self, left: Sequence[torch.Tensor], inputs: Mapping[str, Any], arguments: Any = None) -> Run:
        """The graph has run, on ``arguments`` if these are to be written to, and nothing has been written to yet."""
        for warned in self.warned:
            warned.give()
        run = Run(left, inputs, arguments)
        register(self.hooks, run)
        return run

    def happen(self, run: Run, results: Mapping[int, torch.Tensor] = MappingProxyType({})) -> dict[int, Any]:
        """The graph returns the tensors ``results``; gives what is ``returned``."""
        values = [effect.build(run) for effect in self.effects]  # of counters, before they go up
        holders = [effect.holder_in(run) for effect in self.effects]  # of one in another, before that goes
        keys = [effect.key if effect.key_of is None else effect.key_of(run) for effect in self.effects]
        for effect, holder, key, value in zip(self.effects, holders, keys, values, strict=True):
            if holder is not None:
                effect.happen(holder, key, value)
        for position in self.noted.keys() & results.keys():
            vars(results[position]).update({k: build(run) for k, build in self.noted[position].items()})
        returned = {position: build(run) for position, build in self.returned.items()}
        if run.hooks:
            refuse_removed(run.hooks, [*results.values(), *run.left])
        return returned


def effects_of(
    changes: Sequence[Change],
    templates: Templates,
    returned: Sequence[Any] = (),
    registered: Sequence[tuple[str, Any, Any]] = (),
    warned: Sequence[Warned] = (),
) -> Effects:
    """``returned``: the leaves of what the program returns; ``registered``: on which input what hook is, and with what
    handle."""
    templates.handles |= {id(handle) for _, _, handle in registered}
    templates.hooks = True
    hooks = [Registration(name, templates.of(hook), handle) for name, hook, handle in registered]
    templates.hooks = False
    templates.returning = True
    builds = {k: templates.own(x) for k, x in enumerate(returned) if not isinstance(x, torch.Tensor)}
    noted = {k: notes for k, x in enumerate(returned) if isinstance(x, torch.Tensor) and (notes := templates.notes(x))}
    templates.returning = False
    keys = [templates.own(key) for _, key, _, _ in changes]
    for build, (_, key, _, name) in zip(keys, changes, strict=True):
        if build is None:
            templates.refuse_hidden(key, name)
    for value, _, _, name in templates.reads.states.met:
        templates.refuse_hidden(value, name)
    ways = templates.given.ways
    for one in warned:
        templates.refuse_hidden(one.message, "a warning")
    effects = [
        Effect(h, key, templates.of(value), name, ways.get(id(h.holder)), key_of)
        for (h, key, value, name), key_of in zip(changes, keys, strict=True)
    ]
    held = [h.holder for h, _ in templates.reads.before.values()]
    builds = {k: build for k, build in builds.items() if build is not None}
    return Effects(effects, builds, noted, held if effects else (), hooks, warned)
