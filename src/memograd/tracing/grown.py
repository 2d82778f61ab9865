"""Classes that get attributes which they had not: one of a subclass stands in front of what a program found further up,
``__getattr__`` in place of what it did not find, a property before an attribute of the object.

A dict keeps its keys in order, so that of each class its size and its last key are compared, a tenth of a microsecond.
"""

from __future__ import annotations

from typing import Any

from memograd.tracing.names import is_machinery


class Classes:
    """The users' classes, and those of libraries, that a program has met, with the names that they had then."""

    def __init__(self) -> None:
        self._tables: dict[type, Any] = {}
        self._names: list[frozenset[str]] = []
        self._sizes: list[int] = []
        self._last: list[str] = []

    def meet(self, cls: type) -> None:
        for base in cls.__mro__:
            if base not in self._tables and not is_machinery(base.__module__):
                self._tables[base] = vars(base)
                self._names.append(frozenset(vars(base)))

    def hold(self) -> bool:
        """True where none has a name that it had not, and that may mean another program."""
        tables = self._tables.values()
        sizes, last = [*map(len, tables)], [*map(next, map(reversed, tables))]
        if sizes != self._sizes or last != self._last:
            if any(_grown(table, names) for table, names in zip(tables, self._names, strict=True)):
                return False
            self._sizes, self._last = sizes, last
        return True


def _grown(table: Any, names: frozenset[str]) -> bool:
    return any(_counts(name, table.get(name)) for name in table.keys() - names)


def _counts(name: str, value: Any) -> bool:
    """Not what Python notes on a class (``__annotations__``), nor who listens while a program is captured."""
    if name.startswith("__") and name.endswith("__"):
        return callable(value) and not hasattr(value, "tells")
    return not name.startswith("_abc_")
