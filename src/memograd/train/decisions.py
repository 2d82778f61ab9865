"""A model that decides by values has one program for each way it has gone so far.

Each look of a program compares what it sees before anything is written (``memograd.looks``). Where it sees something
else, nothing has happened: generators are put back, and the step is done by a program that has decided so before, or is
captured anew on this batch. What the program did up to that look is the same in both, so looks before it agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import optim

from memograd.draws import undone_on_error
from memograd.errors import MemogradError
from memograd.looks import DecisionChangedError, comparing, trusting
from memograd.tracing.undisturbed import Generators
from memograd.train.program import Compare, Decision, Program

_MOST = 64  # programs of one signature


class Programs:
    """The programs of one signature, the one used last first; ``tracked``: with arguments that require gradients."""

    def __init__(self, tracked: bool = False) -> None:
        self.tracked = tracked
        self.all: list[Program] = []

    def add(self, program: Program) -> Program:
        self.all.insert(0, program)
        del self.all[_MOST:]
        return program

    def drop_stale(self, optimizer: optim.Optimizer, share: bool, averages: int) -> None:
        """Forget programs whose tensors are not where they were, who share what may no longer be equal, or who do not
        average all parameters."""

        def holds(program: Program) -> bool:
            return program.share <= share and program.averages == averages and not program.stale(optimizer)

        if not all(map(holds, self.all)):
            self.all = list(filter(holds, self.all))

    def holding(self, leaves: Sequence[Any]) -> bool:
        """Whether some program finds what its model reads as it was, for a batch with these leaves; that one comes
        first then."""
        for program in self.all:
            if program.graph.guards.hold() and program.graph.guards.given_hold(leaves):
                if program is not self.all[0]:
                    self.all.remove(program)
                    self.all.insert(0, program)
                return True
        return False

    def step(
        self,
        batch: tuple[Any, ...],
        options: dict[str, Any],
        fresh: bool,
        build: Callable[[str], Program],
        compare: Compare,
    ) -> tuple[Program, list[torch.Tensor]]:
        """One step by the program whose decisions are right for this batch, and its results.

        Args:
            fresh: the first program was made for the values of this very batch: its decisions are right.
            build: makes a program for these values, for a reason.
            compare: compares a program with PyTorch, where that is due, when its decisions are known to be right.
        """
        program = self.all[0]
        if fresh or not program.decisions:
            return program, program.step(batch, options, compare)
        tried: list[Program] = []
        while True:
            try:
                with undone_on_error(program.devices), comparing():
                    if program.origin is None:
                        results = program.step(batch, options)
                    else:
                        self._decide(program, batch, options)
                        with trusting():
                            results = program.step(batch, options, compare)
                self.all.remove(program)
                return self.add(program), results
            except DecisionChangedError as changed:
                why = f"{program.decisions[changed.index].text}, and now {changed.seen}"
                tried.append(program)
                other = self._which(program.decisions[: changed.index], changed.seen, tried)
            except MemogradError:
                raise
            except (RuntimeError, IndexError) as error:  # the model may go on from what a kernel refuses; and a planned
                what = "a shape that values decide" if program.shaped else "a kernel"  # step may get to operators
                why, other = f"{what}: {error}", None  # before it gets to the look at a shape
            if other is None:
                self.add(build(why))
                return self.step(batch, options, True, build, compare)
            program = other

    def _decide(self, program: Program, batch: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Raises DecisionChangedError where ``program`` is not right for this batch; nothing has happened then."""
        with Generators().again() if program.devices else nullcontext():
            program.choice.backend.compute(program.flat(batch, options))

    def _which(self, before: Sequence[Decision], value: str, tried: list[Program]) -> Program | None:
        """A program that went the same way ``before``, and then another, by the ``value`` that is seen now."""
        way = [*(d.seen for d in before), value]
        for program in self.all:
            same = program not in tried and [d.seen for d in program.decisions[: len(way)]] == way
            if same and program.graph.guards.hold():
                return program
        return None
