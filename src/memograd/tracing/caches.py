"""What ``functools.cache``d functions remember of a run that nobody shall notice.

A result that holds a tensor of the capture is forgotten: the next capture computes it anew. A number that it holds
beside that would be computed anew as well, and PyTorch keeps the first: it is compared, and one that is another by then
is refused::

    @functools.cache
    def table(n):
        return torch.arange(n), random.random()
"""

from __future__ import annotations

import gc
from typing import Any
from weakref import WeakKeyDictionary

from memograd._torch import pytree
from memograd.tracing.reachable import reachable

_SIMPLE = (int, float, complex, bool, str, bytes)
_FORGOTTEN: WeakKeyDictionary[Any, dict[Any, list[str]]] = WeakKeyDictionary()  # and by what it was called with


class Before:
    """How often a function was asked and run before, and what it remembered then."""

    def __init__(self, function: Any) -> None:
        self.hits, self.misses = function.cache_info()[:2]
        self._keys = list(table_of(function))
        self._ids = set(map(id, self._keys))

    def new(self, function: Any) -> dict[Any, Any]:
        """What it remembers since."""
        return {key: value for key, value in _results(function).items() if id(key) not in self._ids}


def table_of(function: Any) -> dict[Any, Any]:
    """Where it keeps its results; those of a cache of limited size in links, which only the function shows, in front of
    the table."""
    held = gc.get_referents(function)
    return [x for x in held if type(x) is dict and x is not vars(function)][-1]


def _results(function: Any) -> dict[Any, Any]:
    table = table_of(function)
    if function.cache_parameters()["maxsize"] is None:
        return table
    results, keys = {}, set(map(id, table))
    held = iter(gc.get_referents(function))  # of each link the key, and then the result
    for value in held:
        if id(value) in keys:
            results[value] = next(held)
    return results


def forget(function: Any, before: Before) -> None:
    """It has got a tensor of a capture, or of a run that nobody shall notice."""
    if function.cache_info().misses == before.misses:
        return
    results = _results(function)
    tensors = [key for key in before.new(function) if reachable(key, results[key])]
    if not tensors:
        return
    limited = function.cache_parameters()["maxsize"] is not None
    noted = _FORGOTTEN.setdefault(function, {})
    for key in results if limited else tensors:
        if not reachable(key):
            noted.setdefault(key, _numbers(results[key]))
    if limited:
        function.cache_clear()
    else:
        table = table_of(function)
        for key in tensors:
            del table[key]


def computed_otherwise(function: Any, before: Before) -> bool:
    """Whether it remembers something now that it has remembered otherwise, and was let forget."""
    noted = _FORGOTTEN.get(function, {})
    return any(key in noted and noted[key] != _numbers(value) for key, value in before.new(function).items())


def _numbers(result: Any) -> list[str]:
    return [repr(x) for x in pytree.tree_leaves(result) if type(x) in _SIMPLE]
