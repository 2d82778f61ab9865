"""The states of the objects that a program has met, see ``state_kinds.py``: who has moved, and back to where they were.

Capture runs the program once, and so moves all of them as far as a plain run does; where it fails, or where PyTorch
runs the program beside it, those whose state can be known and put back are put back.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from memograd.tracing.kinds.generators import SHARED_GENERATOR
from memograd.tracing.kinds.holders import scripted
from memograd.tracing.kinds.kind import Kind


class States:
    """The objects that a program has met, and the states they were in: Python's and NumPy's global generators, and
    others.

    Attributes:
        unknown: names of those whose state cannot be known: each run may find another one.
        named: attributes that the code of the program names.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Any, Kind, Any, str]] = []
        self.unknown: list[str] = []
        self._taken: list[str] = []
        self.named: set[str] = set()
        self.meet(random, SHARED_GENERATOR, "Python's random generator")
        if (numpy := sys.modules.get("numpy")) is not None:
            self.meet(numpy.random, SHARED_GENERATOR, "NumPy's random generator")

    def meet(self, value: Any, kind: Kind, name: str) -> None:
        before = kind.state(value)
        if before is None:
            self.unknown.append(name)
            self._taken += [name] * kind.taken
        else:
            self._before.append((value, kind, before, name))

    def knows(self, kind: Kind) -> bool:
        """Whether something of this kind has been met."""
        return any(known is kind for _, known, _, _ in self._before)

    @property
    def taken(self) -> list[str]:
        """Names of those that a run takes from, or leaves otherwise than they were, for good."""
        idle = [entry for entry in self._before if entry[1].idle and entry[1].counts(self.named)]
        return [*self._taken, *(name for value, kind, before, name in idle if kind.state(value) != before)]

    @property
    def guarded(self) -> list[tuple[Any, Kind, Any]]:
        """Those that a graph holds for in this state alone."""
        return [entry[:3] for entry in self.named_guarded]

    @property
    def named_guarded(self) -> list[tuple[Any, Kind, Any, str]]:
        """The same, with their names."""
        return [entry for entry in self._before if entry[1].is_guarded(self.named)]

    @property
    def met(self) -> list[tuple[Any, Kind, Any, str]]:
        """Those whose state is known, and what it was."""
        return list(self._before)

    def moved(self) -> list[str]:
        """Names of those that are in another state now, and of those whose state is not known."""
        counting = [entry for entry in self._before if entry[1].counts(self.named)]
        return [*self.unknown, *(name for value, kind, before, name in counting if kind.state(value) != before)]

    def left_in_scripts(self) -> str:
        """The name of a module of TorchScript's in which the program has put another tensor, which nobody but
        TorchScript can; empty if there is none."""
        scripts = [entry for entry in self._before if isinstance(entry[0], torch.jit.ScriptModule)]
        for value, _, before, name in scripts:
            pairs = zip(scripted(value).values, before.values, strict=True)
            if any(now is not then for now, then in pairs if isinstance(now, torch.Tensor)):
                return name or type(value).__name__
        return ""

    def put_back(self) -> None:
        for value, kind, before, _ in self._before:
            if kind.put_back is not None and kind.state(value) != before:
                kind.put_back(value, before)
