"""Texts of ids of arguments: ``hex(id(x))[-4:]``.

A whole one that is looked up is compared with the texts that the program holds (``ids.AskedIds``). Who cuts one up has
computed something from the id, which is so for this argument alone.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from typing import Any

from memograd.tracing.interposed import current

_WHOLE = {"__new__", "__init__", "__class__", "__getattribute__", "__hash__", "__eq__", "__ne__", "__doc__", "__dir__"}
_WHOLE |= {"__setattr__", "__delattr__", "__init_subclass__", "__subclasshook__", "__sizeof__", "__getstate__"}
_CUTTING = {"split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix", "removesuffix"}
_CUTTING |= {"encode", "find", "rfind", "translate", "strip", "lstrip", "rstrip", "replace"}
_PUT_TOGETHER = {"format", "join", "format_map"}


class IdText(str):
    """A text with the id of an argument, ``of``."""

    of = 0

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        return text_of(str.__repr__(self), self.of)

    def __format__(self, spec: str) -> str:
        return text_of(str.__format__(self, spec), self.of)

    def __add__(self, other: str) -> str:
        return text_of(str.__add__(self, other), self.of)

    def __radd__(self, other: str) -> str:
        return text_of(str.__add__(other, self), self.of)


def text_of(text: str, of: int) -> str:
    """``text``, in which the id ``of`` an argument is written; while a capture is under way it is known as that."""
    if current() is None:
        return text
    made = IdText(text)
    made.of = of
    return made


def plain(text: IdText) -> str:
    return str.__str__(text)[:]


def _counting(name: str) -> None:
    function = getattr(str, name)

    def call(self: IdText, *args: Any, **kwargs: Any) -> Any:
        if (tracer := current()) is not None:
            tracer.computed_ids.add(self.of)
        return function(self, *args, **kwargs)

    setattr(IdText, name, call)


for _name in {*dir(str)} - {*vars(IdText)} - _WHOLE:
    _counting(_name)


@functools.cache
def cuts_texts(code: types.CodeType) -> bool:
    """Whether this code may put a text together, which is a new one then, and cut it up."""
    names = {*code.co_names}
    instructions = list(dis.get_instructions(code))
    together = not names.isdisjoint(_PUT_TOGETHER) or any(
        i.opname in ("BUILD_STRING", "BINARY_MODULO") or (i.opname == "BINARY_OP" and i.argrepr == "%")
        for i in instructions
    )
    pairs = itertools.pairwise(instructions)
    sliced = any(i.opname == "BUILD_SLICE" and j.opname == "BINARY_SUBSCR" for i, j in pairs)
    cut = sliced or not names.isdisjoint(_CUTTING) or any(i.opname == "BINARY_SLICE" for i in instructions)
    return together and cut
