"""Step counters that parameters have in common, and who else writes to them.

A step's graph computes what follows from a counter (Adam's bias corrections) once for all parameters whose counters are
equal. They are equal for ever, if each step updates the same parameters and nobody else writes to them; who begins
anew with one layer (``optimizer.state[p]["step"].zero_()``) does.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import optim

from memograd.train.update import RULES

_versions = attrgetter("_version")


class Updates:
    """Which parameters the steps of an optimizer have updated, and the counters that were equal then.

    Attributes:
        alike: parameters whose counters were equal once have equal ones now.
    """

    _OF: ClassVar[WeakKeyDictionary[optim.Optimizer, Updates]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.parameters: frozenset[int] | None = None
        self.alike = True
        self._counters: list[torch.Tensor] = []
        self._equal: list[list[torch.Tensor]] = []  # the same, those together that are equal
        self._written = 0  # how often, all of them together

    @classmethod
    def of(cls, optimizer: optim.Optimizer) -> Updates:
        """Those of ``optimizer``, whoever makes its steps."""
        return cls._OF.setdefault(optimizer, cls())

    def note(self, updated: Iterable[torch.Tensor]) -> bool:
        """A step will update these parameters; whether all steps still do the same."""
        parameters = frozenset(map(id, updated))
        if self.parameters is None:
            self.parameters = parameters
        self.alike &= self.parameters == parameters
        return self.alike

    def ran(self, optimizer: optim.Optimizer, fresh: bool) -> None:
        """A step has written to the counters; ``fresh``: to others, maybe, than the last one."""
        if fresh:
            self._equal = _equal(optimizer)
            self._counters = [t for together in self._equal for t in together]
        self._written = sum(map(_versions, self._counters))

    def look(self) -> None:
        """Notice whether somebody else has written to the counters since, and whether they are still equal."""
        if sum(map(_versions, self._counters)) != self._written:
            self.alike &= all(len(set(map(float, together))) == 1 for together in self._equal)


def _equal(optimizer: optim.Optimizer) -> list[list[torch.Tensor]]:
    """The counters of each group that are equal."""
    equal: dict[tuple[int, str, float], list[torch.Tensor]] = {}
    rule = RULES.get(type(optimizer))  # None: it is called after the graph, and shares nothing
    names = () if rule is None else rule.counters
    for k, group in enumerate(optimizer.param_groups):
        for state in [optimizer.state[p] for p in group["params"] if p in optimizer.state]:
            for name in names:
                if isinstance(counter := state.get(name), torch.Tensor) and not counter.is_inference():
                    equal.setdefault((k, name, float(counter)), []).append(counter)
    return [together for together in equal.values() if len(together) > 1]
