"""What of a program's surroundings is not as it was, for messages: looked for in the order of ``Guards``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from memograd.tracing.holders import MISSING
from memograd.tracing.provenance import hooks_of_every_module
from memograd.tracing.reads import Place, Reads


class Told:
    """What ``reads`` can name of what is no value in a place: containers, empty places, states.

    Attributes:
        filled: ids of what the program writes to itself.
    """

    def __init__(self, reads: Reads, absent: Iterable[Place]) -> None:
        self._containers = [(c, reads.names.get(id(c), ""), _kept(reads.before[id(c)][1])) for c in reads.containers]
        self._absent = list(absent)
        self._states = [(value, kind.state, before, name) for value, kind, before, name in reads.states.named_guarded]
        self._hooks = hooks_of_every_module()
        self.filled: set[int] = set()

    def changed(self, key_of: Callable[[Any], Any]) -> str:
        """The first that is another one; ``key_of`` tells keys apart. Empty where none is."""
        return next((what for what in self._all(key_of) if what), "")

    def _all(self, key_of: Callable[[Any], Any]) -> Iterator[str]:
        for held, name, before in self._containers:
            yield _of_container(held, name, before, key_of, id(held) in self.filled)
        for place in self._absent:
            if place.get() is not MISSING:
                yield f"{place.name!r}, which was not there,"
        for value, state, before, name in self._states:
            if state(value) != before:
                yield f"what {name!r} holds"
        if hooks_of_every_module() != self._hooks:
            yield "what hooks there are on all modules"


def _kept(before: Any) -> Any:
    """What is to be known of what a container held, without the values, which shall not live longer for that."""
    return list(before) if isinstance(before, dict) else before if isinstance(before, set) else range(len(before))


def _of_container(held: Any, name: str, before: Any, key_of: Callable[[Any], Any], filled: bool) -> str:
    what = repr(name) if name else f"a {type(held).__name__}"
    if len(held) != len(before):
        by = "to which the program adds itself (it" if filled else "which the program reads (it"
        return f"{what}, {by} holds {len(held)} and held {len(before)}),"
    if isinstance(held, dict) and list(map(key_of, held)) != list(map(key_of, before)):
        return f"which keys {what} has, or their order,"
    return f"what is in {what}" if isinstance(held, set) and held != before else ""
