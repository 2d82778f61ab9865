"""How objects of one kind are asked for their state, and put into it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

LARGEST = 1 << 28  # bytes that are compared at each call; with more, capture is cheaper
_VALUES = (int, float, complex, bool, str, bytes, type(None))


@dataclass(frozen=True)
class Kind:
    """How objects of one kind are asked for their state and put into it.

    Attributes:
        state: a copy of it, or None where it cannot be known: then each run may find another one.
        guarded: a graph holds for this state alone; else for as long as nobody draws.
        taken: a run takes something from it for good, and it cannot be put back.
        asked_by: names by which code asks for the state itself: with one of them in the program, a graph holds for this
            state alone all the same.
        idle: where nobody asks so, its state counts for nothing.
    """

    state: Callable[[Any], Any]
    put_back: Callable[[Any, Any], None] | None = None
    guarded: bool = True
    taken: bool = False
    asked_by: frozenset[str] = frozenset()
    idle: bool = False

    def counts(self, named: Collection[str]) -> bool:
        """Whether another state means another run, where these are the ``named`` attributes."""
        return not self.idle or not self.asked_by.isdisjoint(named)

    def is_guarded(self, named: Collection[str]) -> bool:
        return self.counts(named) if self.guarded else not self.asked_by.isdisjoint(named)


class Same:
    """Several values: equal if they are the same objects, or equal numbers or texts."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = tuple(values)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Same)
            and len(self.values) == len(other.values)
            and all(
                a is b or (type(a) is type(b) and type(a) in _VALUES and a == b)
                for a, b in zip(self.values, other.values, strict=True)
            )
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]


UNKNOWN = Kind(lambda _: None)
TAKEN = Kind(lambda _: None, taken=True)  # an iterator, a file
ANSWER = Kind(lambda function: repr(function()))  # of a function without arguments
