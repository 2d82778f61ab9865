"""Whether everything that a program read when it was captured is as it was.

Asked before each run of a graph, so it has to cost little: first identities are compared, in a few loops of C, about
50 ns for each place. Only where one differs is it looked at what stands there: an equal number will do, and another
tensor of the same geometry, where the graph looks its tensors up.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, contains, getitem, is_
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from memograd.errors import CaptureError
from memograd.graph.signature import distinct
from memograd.tracing.caches import table_of
from memograd.tracing.changed import Told
from memograd.tracing.holders import MISSING
from memograd.tracing.ids import AskedIds
from memograd.tracing.provenance import hooks_of_every_module
from memograd.tracing.reads import Key, Place, Reads, getter_of, tensors_in


def taken_twice(name: str) -> str:
    """What to say where a program would have to be run twice, and cannot be."""
    return (
        f"the program takes from {name!r}, an iterator, a lock or a file, and would have to be run once more for the "
        "same call, which would take another item; take it outside, and pass it in as an argument"
    )


SIMPLE = (int, float, complex, bool, str, bytes, type(None))
_EQUAL = frozenset({*SIMPLE, torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, slice, range})
_PLAIN = (dict, list, collections.OrderedDict, collections.deque, types.MappingProxyType)
_COUNTS = "the counts of a functools.cache"
_TRAINED = attrgetter("requires_grad")
_SHAPE, _DTYPE = attrgetter("shape"), attrgetter("dtype")
_STRIDE = torch.Tensor.stride


class Guards:
    """What one capture has read, as it was then.

    Attributes:
        volatile: why the program is another one each time: the name of a generator that it drew from, of a clock; empty
            where it is not.
        states: what a run moves then, and how it was before; None where none does.
        unknown: the name of something that no two runs find the same, a clock: they cannot be compared.
        taken: the name of something that a run takes from for good, an iterator, so that the program cannot be run
            twice for one call.
        given: which leaves of the arguments are tensors that the program finds elsewhere, too, and where: it may ask
            whether they are the same, so they are no tensors of their own to it.
        ids: of which arguments the program has asked the ids.
        told: what else it has read, by name.
        keys: tensors that are keys of dicts which the program got hold of, members of sets, or held weakly; by id, and
            how they are got.
        by_identity: ids of tensors in places, for which the program has asked: another one will not do there.
        moved: since this was last set to False, some place has got another tensor, which will do.
    """

    def __init__(self, reads: Reads) -> None:
        steady = reads.counters.steady()
        places = [entry for key, entry in reads.places.items() if key not in steady]
        self._counters = [(counter.table, counter.name) for counter in steady.values()]
        there = [(p, v) for p, v in places if v is not MISSING]
        gets = dict.fromkeys(_way_to(p) for p, _ in there)
        ways = [_Way(get, [(p, v) for p, v in there if _way_to(p) == get]) for get in gets]
        self._ways = [way for way in ways if way.keys]
        absent = [p for p, v in places if v is MISSING]
        self._nowhere = [p.holder for p in absent if not p.attribute]
        self._never = [p.key for p in absent if not p.attribute]
        self._unset = [p for p in absent if p.attribute]
        self.told = Told(reads, absent)
        sized = [(c, len(reads.before[id(c)][1])) for c in reads.containers if not isinstance(c, set)]
        self._empty = [c for c, n in sized if not n]
        self._filled, self._sizes = [c for c, n in sized if n], [n for _, n in sized if n]
        dicts = [c for c, n in sized if n and isinstance(c, dict)]
        self._dicts = [c for c in dicts if not _by_tensors(reads.before[id(c)][1])]
        self._by_tensors = [(c, list(reads.before[id(c)][1])) for c in dicts if _by_tensors(reads.before[id(c)][1])]
        self._orders = [list(reads.before[id(c)][1]) for c in self._dicts]
        self._sets = [(c, reads.before[id(c)][1]) for c in reads.containers if isinstance(c, set)]
        keyed = [(c, reads.before[id(c)][1]) for c in reads.containers if isinstance(c, (dict, set))]
        self._keyed = [(c, _kinds(before)) for c, before in keyed if any(type(k) is not str for k in before)]
        self._hooks = hooks_of_every_module()
        self._classes = reads.classes
        self._states = [(value, kind.state, before) for value, kind, before in reads.states.guarded]
        self._caches = [(table, dict(table)) for table in _tables(reads)]
        seldom = (self._caches, self._counters, self._states, self._sets, self._keyed, self._by_tensors, self._unset)
        self._seldom = any(seldom)  # whether there is any of these at all
        self.volatile = next(iter(reads.states.moved()), reads.again)
        self.states = reads.states if self.volatile else None
        self.taken = next(iter(reads.states.taken), "")
        self.unknown = next(iter(reads.states.unknown), self.taken)
        if self._caches and "cache_info" in reads.states.named:
            self.volatile = self.volatile or _COUNTS
            self.unknown = self.unknown or _COUNTS
        self.given: tuple[tuple[int, Place | Key], ...] = ()
        self.keys = dict(reads.keys)
        self.ids: AskedIds | None = None
        self.by_identity: frozenset[int] = frozenset()
        self.moved = False
        self._remember_tensors()

    def _remember_tensors(self) -> None:
        self._tensors = [t for way in self._ways for v in way.last for _, t in tensors_in(v)]
        self.held = frozenset((*map(id, self._tensors), *self.keys))
        self._trained = list(map(_TRAINED, self._tensors))
        self._solid = _solid(self._tensors)
        self._shapes = list(map(_SHAPE, self._solid))
        self._dtypes = list(map(_DTYPE, self._solid))
        self._strided = _strided(self._solid)
        self._strides = list(map(_STRIDE, self._strided))

    def ask(self, ids: AskedIds, compared: bool) -> None:
        """The program has asked for ``ids`` of its arguments; ``compared``: by whoever will use the graph again."""
        self.ids = ids
        if ids.found:
            self.unknown = self.unknown or "the id of an argument"
        if ids.any_held and not compared:
            self.volatile = self.volatile or "the id of an argument"

    def run_again(self) -> None:
        """The program is about to be run once more for the same call.

        Raises:
            CaptureError: that would not be the same run.
        """
        if self.taken:
            raise CaptureError(taken_twice(self.taken))
        if self.states is not None:
            self.states.put_back()

    def hold(self) -> bool:
        """True where the program would read what it read."""
        if self.volatile:
            return False
        try:
            same = all([all(map(is_, map(w.get, w.holders, w.keys), w.last)) for w in self._ways]) or self._alike()
            return same and self.rest_holds() and self._kinds_hold()
        except (KeyError, IndexError, AttributeError, ValueError):  # something is no longer there
            return False

    def given_hold(self, leaves: Sequence[Any]) -> bool:
        """Where everything else holds: whether the arguments with these leaves are, where they were at capture, tensors
        that the program holds itself, and nowhere else."""
        if self.ids is not None and not self.ids.hold(leaves):
            return False
        if not self.given and self.held.isdisjoint(map(id, leaves)):
            return True
        at = [k for k, x in enumerate(leaves) if id(x) in self.held]
        return at == [k for k, _ in self.given] and all(place.get() is leaves[k] for k, place in self.given)

    def rest_holds(self) -> bool:
        """The same of what is no value in a place: which places are empty, sizes, states, hooks."""
        return self.all_but_hooks_holds() and hooks_of_every_module() == self._hooks

    def _kinds_hold(self) -> bool:
        """Whether tensors have the dtypes and strides that they had: ``module.to``, ``data`` set, ``t_``. (Where calls
        take the short way, these are compared there.)"""
        return list(map(_DTYPE, self._solid)) == self._dtypes and list(map(_STRIDE, self._strided)) == self._strides

    def all_but_hooks_holds(self) -> bool:
        """The same, for who has looked at the hooks himself."""
        return (
            list(map(_TRAINED, self._tensors)) == self._trained
            and list(map(_SHAPE, self._solid)) == self._shapes  # ``data`` set, ``resize_``
            and not any(self._empty)
            and list(map(len, self._filled)) == self._sizes
            and list(map(list, self._dicts)) == self._orders
            and not any(map(contains, self._nowhere, self._never))
            and self._classes.hold()
            and (not self._seldom or self._seldom_holds())
        )

    def _seldom_holds(self) -> bool:
        """The same of what most programs have not."""
        return (
            all([type(table[name]) is int for table, name in self._counters])
            and all([state(value) == before for value, state, before in self._states])
            and all([held == before for held, before in self._sets])
            and all([_kinds(held) == before for held, before in self._keyed])
            and all([list(map(id, held)) == list(map(id, before)) for held, before in self._by_tensors])
            and all([place.get() is MISSING for place in self._unset])
            and all([_remembers(table, *pair) for table, before in self._caches for pair in before.items()])
        )

    def identities(self) -> list[tuple[Callable[[Any, Any], Any], Any, Any, Any]]:
        """What stood where last: (how it is got, of what, by which key, what)."""
        return [(w.get, *at) for w in self._ways for at in zip(w.holders, w.keys, w.last, strict=True)]

    def values(self) -> list[tuple[Place, Any]]:
        """What the program read, and what stood there last."""
        return [pair for way in self._ways for pair in zip(way.places, way.last, strict=True)]

    def tensors(self) -> list[torch.Tensor]:
        """Those among what the program read, but for lazy ones."""
        return self._solid

    def key_tensors(self) -> list[torch.Tensor]:
        """Those among ``keys`` that there still are."""
        return [tensor for key in self.keys.values() if (tensor := key.get()) is not None]

    def changed(self) -> str:
        """The name of something that is not as it was."""
        if self.volatile:
            return f"{self.volatile}, by which the program goes,"
        for way in self._ways:
            for place, before in zip(way.places, way.last, strict=True):
                value = place.get()
                if value is not before and not _will_do(value, before):
                    return repr(place.name)
        return self.told.changed(id) or "something that the program reads"

    def _alike(self) -> bool:
        """Whether values that are other objects will do all the same."""
        now = [way.values() for way in self._ways]
        pairs = [
            (a, b) for way, values in zip(self._ways, now, strict=True) for a, b in zip(values, way.last, strict=True)
        ]
        if not all(value is before or _will_do(value, before) for value, before in pairs):
            return False
        tensors = [t for values in now for v in values for _, t in tensors_in(v)]
        # one tensor in two places is one input of the graph: it must still be one, and two must still be two
        ids = {(id(value), id(before)) for value, before in zip(tensors, self._tensors, strict=True)}
        if len(ids) != len({a for a, _ in ids}) or len(ids) != len({b for _, b in ids}):
            return False
        solid = _solid(tensors)
        if list(map(_TRAINED, tensors)) != self._trained or list(map(_SHAPE, solid)) != self._shapes:
            return False
        if list(map(_DTYPE, solid)) != self._dtypes or list(map(_STRIDE, _strided(solid))) != self._strides:
            return False
        moved = {of for pair in ids if pair[0] != pair[1] for of in pair}
        if not (moved.isdisjoint(self.keys) and moved.isdisjoint(self.by_identity)):
            return False
        self.moved |= bool(moved)
        for way, values in zip(self._ways, now, strict=True):
            way.last = values
        self._remember_tensors()
        return True


def _tables(reads: Reads) -> list[dict[Any, Any]]:
    """Where the ``functools.cache``d functions that the program has called keep their results."""
    called = [f for f, before in reads.remembering if f.cache_info()[:2] != (before.hits, before.misses)]
    return [table_of(f) for f in called]


def _remembers(table: dict[Any, Any], key: Any, before: Any) -> bool:
    """Whether the same is remembered for ``key``; of a cache of limited size the links, which hold it, are compared."""
    value = table.get(key, MISSING)
    return value is before or (type(value) in _EQUAL and _will_do(value, before))


class _Way:
    """Places whose values are got in one way, and what stood there last."""

    def __init__(self, get: Callable[[Any, Any], Any], places: list[tuple[Place, Any]]) -> None:
        self.get = get
        self.places = [p for p, _ in places]
        self.holders, self.keys = [p.holder for p, _ in places], [p.key for p, _ in places]
        self.last = [v for _, v in places]

    def values(self) -> list[Any]:
        return list(map(self.get, self.holders, self.keys))


def _way_to(place: Place) -> Any:
    """The function that gets the value of a place."""
    if place.attribute:
        return getattr
    return getitem if type(place.holder) in _PLAIN else getter_of(place.holder)


def _will_do(value: Any, before: Any) -> bool:
    kind = type(value)
    if kind is not type(before):
        return False
    if kind is torch.Tensor or kind is nn.Buffer:
        return _geometry(value) == _geometry(before) and not (vars(value) or vars(before))  # notes are read with it
    if issubclass(kind, tuple) and kind is not torch.Size:
        return len(value) == len(before) and all(a is b or _will_do(a, b) for a, b in zip(value, before, strict=True))
    return kind in _EQUAL and distinct(value) == distinct(before)


def _by_tensors(keys: Iterable[Any]) -> bool:
    """Whether there are tensors among these keys of a dict: two that are not the same cannot be compared."""
    return any(True for key in keys for _ in tensors_in(key))


def _kinds(keys: Iterable[Any]) -> set[Any]:
    """Keys, or members of a set, as a program can tell them apart: True is not 1."""
    return {(type(k), distinct(k)) for k in keys}


def _solid(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those that have a shape."""
    return [t for t in tensors if not is_lazy(t)]


def _strided(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those that can lie in memory in several ways."""
    return [t for t in tensors if t.layout is torch.strided and t.dim() > 1]


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided or (tensor.requires_grad and tensor.is_leaf):
        return (id(tensor),)
    bits = tensor.is_conj(), tensor.is_neg()
    return (tensor.shape, tensor.stride(), tensor.storage_offset() != 0, tensor.dtype, tensor.device, *bits)
