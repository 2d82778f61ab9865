"""Programs that set the state of PyTorch's random generator themselves (``torch.manual_seed``, ``fork_rng``).

What is drawn behind a seed is the same in every run. So it is drawn while the program is captured, from a generator of
the capture's own, and is a constant of the graph, and each run leaves the generator where the program would. A state
that was asked for before (``fork_rng``) may be set again: if nothing was drawn in between, the draws that follow are
again those of the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from memograd._torch import in_front, put_state, state_of, unseen
from memograd.errors import CaptureError
from memograd.ops import is_random
from memograd.tracing import generators
from memograd.tracing.effects import Change
from memograd.tracing.holders import Keyed
from memograd.tracing.provenance import caller
from memograd.tracing.reachable import reachable
from memograd.tracing.tracer import Tracer


class Seeds:
    """What a program makes of the generator.

    Attributes:
        own: where it draws from since it was seeded; None while that is where the caller's generator stands.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.own: torch.Generator | None = None
        self._asked: dict[bytes, int | None] = {}  # states, and how much was drawn before; None: of ``own``
        self._given: list[torch.Tensor] = []  # the same, as the program has got them

    def manual_seed(self, seed: int) -> torch.Generator:
        if torch.cuda.is_initialized():
            _refuse("seeds the generators of a device")
        self.own = torch.Generator()
        return self.own.manual_seed(seed)

    def get_state(self) -> torch.Tensor:
        generator = torch.default_generator if self.own is None else self.own
        self._asked[state_of(generator)] = self._drawn() if self.own is None else None
        with unseen():
            self._given.append(generator.get_state())
        return self._given[-1]

    def set_state(self, state: torch.Tensor) -> None:
        with unseen():
            wanted = bytes(state.numpy())
        if wanted not in self._asked:
            _refuse("sets the state of PyTorch's random generator to one that it has from elsewhere")
        before = self._asked[wanted]
        if before is None:
            self.own = torch.Generator()
            put_state(self.own, wanted)
        elif before != self._drawn():
            _refuse("puts PyTorch's random generator back, which is to draw the same numbers again")
        else:
            self.own = None

    def refuse_kept(self, changes: Iterable[Change]) -> None:
        """Raises CaptureError where the program does more with a state than to set it again."""
        left = {id(tensor) for tensor in reachable(*[change[2] for change in changes])} if self._given else ()
        if any(self.tracer.knows(state) or id(state) in left for state in self._given):
            raise CaptureError(
                "the program keeps the state of PyTorch's random generator, or computes with it, and at each run of a "
                "graph it would be that of the capture. Ask for it (torch.get_rng_state()) before the call"
            )

    def initial_seed(self) -> int:
        if self.own is None:
            _refuse("asks for the seed of PyTorch's random generator, which may be another one next time,")
        return self.own.initial_seed()

    def seed(self) -> int:
        _refuse("sets the state of PyTorch's random generator to a random one")

    def drawn(self, func: Any, args: Any, kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What an operator draws, and the tensor that it is to be written into."""
        assert self.own is not None
        default, now = torch.default_generator, state_of(torch.default_generator)
        put_state(default, state_of(self.own))
        try:
            numbers = generators.drawn(func, args, kwargs, self.tracer.looking, fixed=True)
            put_state(self.own, state_of(default))
        finally:
            put_state(default, now)
        return numbers

    def left(self) -> list[Change]:
        """The program leaves the generator in another state than its draws alone would."""
        if self.own is None:
            return []
        return [(_State(torch.default_generator), "state", state_of(self.own), "torch.default_generator")]

    def _drawn(self) -> int:
        return sum(map(is_random, self.tracer.graph.nodes))


class _State(Keyed):
    """Where a generator stands."""

    def contents(self) -> dict[Any, Any]:
        return {"state": state_of(self.holder)}

    def assign(self, key: Any, value: Any) -> None:
        put_state(self.holder, value)


class _Watched:
    """Stands in ``torch.random`` for PyTorch's generator while a program is captured."""

    def __init__(self, seeds: Seeds) -> None:
        self.below: Any = None
        self._seeds, self._thread = seeds, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        here = threading.get_ident() == self._thread and not self._seeds.tracer.paused
        if here and name in ("manual_seed", "seed", "set_state", "get_state", "initial_seed"):
            return getattr(self._seeds, name)
        below = self.below
        while type(below) is _Watched:  # of a capture around this one
            below = below.below
        return getattr(below, name)


def _refuse(what: str) -> NoReturn:
    source, line = caller()
    raise CaptureError(
        f"the program {what} at {source} ({line}); a graph cannot do that: draw outside and pass the numbers in, "
        "or seed before the call"
    )


@contextmanager
def seeds(tracer: Tracer) -> Iterator[None]:
    """``torch.manual_seed``, ``fork_rng`` and ``set_rng_state`` in a program are known."""
    tracer.seeds = Seeds(tracer)
    with in_front(_Watched(tracer.seeds)):
        yield
