"""Numbers that a program only counts with: ``self.steps += 1`` needs no other graph at each step.

The first capture sees that ``steps`` was read and another number left there, so its graph holds for one value. When the
program is captured again it gets, in the place of the number, an object that does as the number does and knows whether
anybody has looked at it. Adding whole numbers is no look. Where nobody has looked, nothing in the graph depends on
the number: each run adds to whatever stands there. Everything else (a comparison, a product with a tensor, a format)
is a look; the graph then holds for this number alone, as for any other attribute.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any

from memograd.tracing.holders import dict_of

_MOST = 1024
_KNOWN: dict[tuple[int, str], Any] = {}  # objects and attributes that were counted up, weakly


class Counter:
    """One such attribute during a capture."""

    def __init__(self, table: dict[str, Any], name: str, value: int) -> None:
        self.table, self.name, self.value = table, name, value
        self.looked = False


class Counted:
    """The number of a counter, and what was added to it since."""

    __slots__ = ("_added", "_counter")
    __class__ = property(lambda self: int)  # pyright: ignore[reportAssignmentType]  # isinstance(steps, int)

    def __init__(self, counter: Counter, added: int = 0) -> None:
        self._counter, self._added = counter, added

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return Counted(self._counter, self._added + other)
        return look(self) + other

    def __radd__(self, other: Any) -> Any:
        return self + other if type(other) is int else other + look(self)

    def __sub__(self, other: Any) -> Any:
        return self + -other if type(other) is int else look(self) - other

    def __getattr__(self, name: str) -> Any:
        return getattr(look(self), name)

    def __pow__(self, *others: Any) -> Any:
        return pow(look(self), *others)

    def __hash__(self) -> int:
        return hash(look(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (int, (look(self),))


def look(counted: Counted) -> int:
    """The number itself; the graph depends on it from now on."""
    counted._counter.looked = True
    return counted._counter.value + counted._added


def number(value: Any) -> Any:
    """The number itself where ``value`` is a counted one."""
    return look(value) if type(value) is Counted else value


def _looking(function: Callable[..., Any], name: str) -> None:
    setattr(Counted, name, lambda self, *others: function(look(self), *others))


def _looking_from_the_right(function: Callable[..., Any], name: str) -> None:
    setattr(Counted, name, lambda self, other: function(other, look(self)))


for _name in ("mul", "truediv", "floordiv", "mod", "lshift", "rshift", "and", "or", "xor"):
    _looking(getattr(operator, f"__{_name}__"), f"__{_name}__")
    _looking_from_the_right(getattr(operator, f"__{_name}__"), f"__r{_name}__")
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert", "index"):
    _looking(getattr(operator, f"__{_name}__"), f"__{_name}__")
for _function in (int, float, complex, bool, str, repr, format, round, divmod):
    _looking(_function, f"__{_function.__name__}__")
for _name, _function in {"sub": operator.sub, "pow": pow, "divmod": divmod}.items():
    _looking_from_the_right(_function, f"__r{_name}__")
for _name in ("trunc", "floor", "ceil"):
    _looking(int, f"__{_name}__")


class Counters:
    """The counters of one capture."""

    def __init__(self) -> None:
        self.handed: dict[tuple[int, str], Counter] = {}  # by id of the object's ``__dict__`` and name

    def of(self, owner: Any, name: str, value: int) -> Any:
        """What the program gets for the attribute ``owner.name``."""
        known = _KNOWN.get((id(owner), name))
        if known is None or known() is not owner:
            return value
        table = dict_of(owner)
        if table is None or table.get(name) is not value:
            return value
        key = (id(table), name)
        if key not in self.handed:
            self.handed[key] = Counter(table, name, value)
        counter = self.handed[key]
        return Counted(counter) if counter.value == value else value

    def steady(self) -> dict[tuple[int, str], Counter]:
        """Those that nobody has looked at."""
        return {key: c for key, c in self.handed.items() if not c.looked}

    def forget(self) -> None:
        """Hand none of them out again."""
        tables = {(id(c.table), c.name) for c in self.handed.values()}
        for key, known in list(_KNOWN.items()):
            if (id(dict_of(known())), key[1]) in tables:
                del _KNOWN[key]


def remember(owner: Any, name: str) -> None:
    """``owner.name`` was read and has gone up."""
    try:
        _KNOWN[id(owner), name] = weakref.ref(owner)
    except TypeError:  # no weak references to objects of its class
        return
    while len(_KNOWN) > _MOST:
        del _KNOWN[next(iter(_KNOWN))]
