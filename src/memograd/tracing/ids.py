"""``id(x)`` of an argument, by which a program finds it in what was filled outside: ``self.scales.get(id(x), 1)``.

A stand-in has an id of its own. So while a program is captured, ``id`` (and ``hash``) in the modules of its code tells
that of the caller's tensor; and a graph is right for other tensors as long as neither the one nor the other is among
the numbers that the program got hold of.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import pytree
from memograd.tracing.id_texts import IdText, cuts_texts, plain, text_of
from memograd.tracing.interposed import current
from memograd.tracing.keys import compares_itself, held_by
from memograd.tracing.tracer import Tracer

_ID = id
_BITS = 16  # no object lies that low
_WRITTEN = re.compile(r"[0-9a-fA-F]{6,}", re.ASCII)


class Told(int):
    """The id of an argument. Whether it is among other numbers, or in a text, is known (``AskedIds``); what is computed
    from it is so for this argument alone."""


def _computing(name: str) -> None:
    function = getattr(int, name)

    def call(self: Told, *others: Any, **named: Any) -> Any:
        counts(self)
        return function(self, *others, **named)

    setattr(Told, name, call)


_OF_TWO = "add", "sub", "mul", "floordiv", "truediv", "mod", "divmod", "pow", "lshift", "rshift", "and", "or", "xor"
_OTHERS = "lt", "le", "gt", "ge", "neg", "invert", "abs", "float", "index", "int", "round", "trunc"
_METHODS = "to_bytes", "bit_length", "bit_count", "as_integer_ratio"
for _name in (*(f"__{name}__" for name in (*_OF_TWO, *(f"r{name}" for name in _OF_TWO), *_OTHERS)), *_METHODS):
    _computing(_name)


def _writing(name: str) -> None:
    function = getattr(int, name)

    def call(self: Told, *spec: str) -> str:
        _may_be_cut(int.__pos__(self), sys._getframe(1).f_code)
        return text_of(function(self, *spec), int.__pos__(self))

    setattr(Told, name, call)


for _name in ("__str__", "__repr__", "__format__"):
    _writing(_name)


def _may_be_cut(number: int, code: types.CodeType) -> None:
    tracer = current()
    if tracer is not None and cuts_texts(code):
        tracer.computed_ids.add(number)


def counts(*values: Any) -> None:
    """Those of ``values`` that are ids of arguments, or in which one is written, count as numbers."""
    tracer = current()
    if tracer is not None and tracer.asked_ids:
        leaves = pytree.tree_leaves(values)
        tracer.computed_ids |= {int.__pos__(x) for x in leaves if type(x) is Told}
        for text in (x for x in leaves if isinstance(x, str)):
            _written_out(text, tracer)


def _written_out(text: str, tracer: Tracer) -> None:
    asked = {of for _, of in tracer.asked_ids}
    tracer.computed_ids |= asked.intersection(written_in(plain(text) if isinstance(text, IdText) else text))


def returned(value: Any, tracer: Tracer) -> Any:
    """``value``, a leaf of what the program returns; an id is so for this argument alone, as a text is that has it."""
    value = plain(value) if type(value) is IdText else int.__pos__(value) if type(value) is Told else value
    if tracer.asked_ids and type(value) in (int, str):
        _written_out(str(value), tracer)
    return value


def told(value: Any) -> int:
    """``id(value)``; of what stands for an argument that of the argument."""
    tracer = current()
    argument = tracer.given_ids.get(_ID(value)) if tracer is not None else None
    if tracer is None or argument is None:
        if tracer is not None and isinstance(value, torch.Tensor):
            tracer.others_asked.add(_ID(value))
        return _ID(value)
    tracer.asked_ids.add(argument)
    _may_be_cut(argument[1], sys._getframe(1).f_code)
    return Told(argument[1])


def hashed(value: Any) -> int:
    """``hash(value)``, which of a tensor is its id, and of an object may be the id of one."""
    if isinstance(value, torch.Tensor):
        return told(value)
    if type(value) is not Told:
        value = _with_ids(value)
        if sys._getframe(1).f_code.co_name != "__hash__":  # of a key: what it holds is compared
            counts(value)
    number, tracer = hash(value), current()
    of = tracer is not None and any(number == asked for _, asked in tracer.asked_ids)
    return Told(number) if of else number


def _with_ids(value: Any) -> Any:
    """A tuple with the ids of tensors in their place, which has the same hash."""
    if type(value) is not tuple:
        return told(value) if isinstance(value, torch.Tensor) else value
    return tuple(map(_with_ids, value))


def _written(function: Callable[[Any], str]) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        number = int.__pos__(value) if type(value) is Told else value
        return text_of(function(number), number) if type(value) is Told else function(value)

    return write


TOLD = {"id": told, "hash": hashed, "hex": _written(hex), "oct": _written(oct), "bin": _written(bin)}  # by builtin


@dataclass(frozen=True)
class AskedIds:
    """Of which arguments a program has asked the ids, by position among the leaves, and what these were.

    Attributes:
        held: the numbers that it has got hold of and that may be ids.
        texts: those in which ids may be written, in small letters.
        computed: the ids from which it has computed something.
    """

    asked: tuple[tuple[int, int], ...]
    held: frozenset[int]
    texts: str = ""
    computed: frozenset[int] = frozenset()

    def hold(self, leaves: Sequence[Any]) -> bool:
        """Whether the program finds by the ids of these arguments what it found at capture."""
        return all(_ID(leaves[k]) == one or not self._finds(one, _ID(leaves[k])) for k, one in self.asked)

    @property
    def found(self) -> bool:
        """Whether there is something to be found by one of them: copies of the arguments would not find it."""
        return any(self._finds(one) for _, one in self.asked)

    @property
    def any_held(self) -> bool:
        """Whether there is something that may be found by ids."""
        return bool(self.held or self.texts or self.computed)

    def _finds(self, *ids: int) -> bool:
        """Whether one of these is among what it holds, or has been computed with."""
        if not (self.held.isdisjoint(ids) and self.computed.isdisjoint(ids)):
            return True
        return bool(self.texts) and any(str(i) in self.texts or f"{i:x}" in self.texts for i in ids)


def values_in(values: Iterable[Any]) -> Iterator[Any]:
    """The whole numbers among ``values`` that may be ids, and the texts that may have one, those in tuples, lists, sets
    and dicts there, and in keys that are found by what they hold, too."""
    for value in values:
        if issubclass(type(value), int) and type(value) is not bool:
            yield from [int.__pos__(value)] if value.bit_length() > _BITS else []
        elif isinstance(value, str):
            yield from [value] if _WRITTEN.search(value) else []
        elif isinstance(value, (tuple, list, set, frozenset)):
            yield from values_in(value)
            if isinstance(value, (set, frozenset)):
                yield from _in_keys(value)
        elif type(value) is dict:
            yield from values_in([*value, *value.values()])
            yield from _in_keys(value)


def _in_keys(keys: Iterable[Any]) -> Iterator[Any]:
    for key in keys:
        if not isinstance(key, (int, str, torch.Tensor)) and compares_itself(key):
            yield from values_in(x for x in held_by(key) if isinstance(x, (int, str)))


def written_in(text: str) -> Iterator[int]:
    """The ids that may be written there."""
    for digits in _WRITTEN.findall(text):
        yield int(digits, 16)
        if digits.isdecimal():
            yield int(digits)
