"""When may a graph be used again? When everything capture looked at is as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd import autocast
from memograd._torch import attributes_of, default_device, entries_of, modes_of_others, pytree
from memograd.errors import DataDependentError
from memograd.graph.signature import distinct
from memograd.tracing.guards import SIMPLE, Guards
from memograd.tracing.under_way import capturing, needs_values
from memograd.tracing.unusual import refuse_unusual

_ENTERING = threading.Lock()


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Structure, geometry and baked values of the arguments, and the ambient modes an operator may ask for."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return (spec, _keys((args, kwargs)), tuple(_leaf(x) for x in leaves), places(leaves), *ambient())


def flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any]:
    """The leaves of the arguments."""
    simple = not kwargs and all([type(x) is torch.Tensor for x in args])
    return args if simple else pytree.tree_leaves((args, kwargs))


def places(leaves: Sequence[Any]) -> tuple[int, ...]:
    """Which tensors are one in several places: a program may ask (``q is k``). Empty where none is."""
    ids = [id(x) for x in leaves if isinstance(x, torch.Tensor)]
    return () if len({*ids}) == len(ids) else tuple(map(ids.index, ids))


def _keys(tree: Any) -> Any:
    """The keys of dicts that equal others which a program can tell from them: structures compare True as 1."""
    if isinstance(tree, dict):
        return tuple([repr(k) for k in tree if type(k) is not str]), tuple(map(_keys, tree.values()))
    return tuple(map(_keys, tree)) if isinstance(tree, (tuple, list)) else None


def ambient() -> tuple[Any, ...]:
    """Autocast, default dtype and device, grad mode, modes: they decide which operators run, and on what."""
    given = autocast.state(), torch.get_default_dtype(), default_device(), torch.is_grad_enabled()
    return (*given, *modes_of_others())


def _leaf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is torch.sparse_coo and not value.requires_grad:
            return (value.shape, entries_of(value), value.is_coalesced(), value.sparse_dim(), value.dtype, value.device)
        refuse_unusual(value, "an argument", False)
        bits = value.is_conj(), value.is_neg(), _notes(value)
        offset, tracked = value.storage_offset() != 0, value.requires_grad
        return (value.shape, value.stride(), offset, value.dtype, value.device, tracked, *bits)
    return (type(value), distinct(value)) if isinstance(value, SIMPLE) else (type(value), id(value))


class _Same:
    """Equal to the very same object, which it keeps alive: another one would get its id."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _notes(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What a program can read of a tensor besides its values: ``x.scale = 2``."""
    notes = attributes_of(tensor).items()
    return tuple([(k, type(v), distinct(v) if isinstance(v, SIMPLE) else _Same(v)) for k, v in notes])


class Recent(dict[Any, Any]):
    """A dict that forgets what was least recently entered."""

    LIMIT = 256

    def __setitem__(self, key: Any, value: Any) -> None:
        with _ENTERING:
            self.pop(key, None)
            super().__setitem__(key, value)
            if len(self) > self.LIMIT:
                del self[next(iter(self))]


class Guarded:
    """What was made for one signature, each with the guards it holds under; what was used last comes first.

    Programs that go by a number which they change at each call are captured at each call; what is made for them must
    not pile up.
    """

    LIMIT = 16

    def __init__(self) -> None:
        self._entries: list[tuple[Guards | None, Any]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def find(self) -> Any:
        """The first that holds; None where none does."""
        entries = self._entries
        for at, (guards, program) in enumerate(entries):
            if guards is None or guards.hold():
                if at:
                    self._entries = [entries[at], *entries[:at], *entries[at + 1 :]]
                return program
        return None

    def keep(self, guards: Guards | None, program: Any) -> None:
        self._entries = [(guards, program), *self._entries[: self.LIMIT - 1]]


_ON_VALUES = object()


class Cache:
    """Graphs by signature. Inside another capture nothing is kept: the function may see that capture's values.

    A graph that depends on values serves one call and is not kept; that it does is.
    """

    def __init__(self, f: Any, by_signature: Recent | None = None) -> None:
        self.f = f
        self._programs = Recent() if by_signature is None else by_signature

    def get(self, args: tuple[Any, ...], kwargs: dict[str, Any], build: Callable[[bool], Any]) -> Any:
        """What ``build`` makes, which has a graph's ``guards``, perhaps from an earlier call; its argument: on the
        values of this call?"""
        if capturing():
            return build(needs_values())
        key = signature(args, kwargs)
        programs = self._programs.get(key)
        if programs is None:
            programs = self._programs[key] = Guarded()
        program = programs.find()
        if program is None:
            try:
                program = build(False)
                programs.keep(program.guards, program)
            except DataDependentError as error:
                program = _ON_VALUES
                programs.keep(error.guards, program)
        return build(True) if program is _ON_VALUES else program
