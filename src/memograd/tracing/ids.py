"""``id(x)`` of an argument, by which a program finds it in what was filled outside: ``self.scales.get(id(x), 1)``.

A stand-in has an id of its own. So while a program is captured, ``id`` (and ``hash``) in the modules of its code tells
that of the caller's tensor; and a graph is right for other tensors as long as neither the one nor the other is among
the numbers that the program got hold of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memograd.tracing.interposed import current

_ID = id
_SMALL = 1 << 16  # no object lies there


def told(value: Any) -> int:
    """``id(value)``; of what stands for an argument that of the argument."""
    tracer = current()
    argument = tracer.given_ids.get(_ID(value)) if tracer is not None else None
    if tracer is None or argument is None:
        return _ID(value)
    tracer.asked_ids.add(argument)
    return argument[1]


def hashed(value: Any) -> int:
    """``hash(value)``, which of a tensor is its id."""
    return told(value) if isinstance(value, torch.Tensor) else hash(value)


TOLD = {"id": told, "hash": hashed}  # by the name of the builtin


@dataclass(frozen=True)
class AskedIds:
    """Of which arguments a program has asked the ids, by position among the leaves, and what these were.

    Attributes:
        held: the numbers that it has got hold of and that may be ids.
    """

    asked: tuple[tuple[int, int], ...]
    held: frozenset[int]

    def hold(self, leaves: Sequence[Any]) -> bool:
        """Whether the program finds by the ids of these arguments what it found at capture."""
        return all(_ID(leaves[k]) == one or self.held.isdisjoint((one, _ID(leaves[k]))) for k, one in self.asked)

    @property
    def found(self) -> bool:
        """Whether there is something to be found by one of them: copies of the arguments would not find it."""
        return not self.held.isdisjoint(one for _, one in self.asked)


def numbers_in(values: Iterable[Any]) -> Iterator[int]:
    """The whole numbers among ``values`` that may be ids, written out too, and those in tuples, lists, sets and dicts
    there."""
    for value in values:
        if type(value) is int or (type(value) is str and value.isdecimal()):
            yield from [int(value)] if int(value) > _SMALL else []
        elif isinstance(value, (tuple, list, set, frozenset)):
            yield from numbers_in(value)
        elif type(value) is dict:
            yield from numbers_in([*value, *value.values()])
