"""The programs of a step: which one is right for a batch, and when a new one is captured.

A program is right for batches of one geometry, under one set of options, hooks and optimizer settings: its key. Behind
a key there may be several, which decided otherwise by values (``decisions.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd import progress
from memograd._torch import (
    has_hooks,
    module_hooks,
    saved_tensor_hooks,
    without_dispatch_modes,
    without_function_modes,
)
from memograd.errors import GradientMismatchError, GraphError
from memograd.tracing.captures import Captures
from memograd.tracing.reuse import Recent, flat
from memograd.tracing.states import States
from memograd.train.build import Choose, Training, build
from memograd.train.check import Check
from memograd.train.counters import Updates
from memograd.train.decisions import Programs
from memograd.train.outer_histories import refuse_histories
from memograd.train.program import Program, geometry, settings


class ProgramCache:
    """The programs of one step, by what they are right for.

    Attributes:
        captures: why the model was captured, each time.
    """

    def __init__(self, training: Training, check: Check, choose: Choose, updates: Updates) -> None:
        self.training = training
        self.check = check
        self.choose = choose
        self.updates = updates
        self.captures = Captures("a training step")
        self.programs: dict[Any, Programs] = Recent()
        self._parameters = list(training.objective.parameters())
        self._hooks = module_hooks(training.objective)

    def ready(self, batch: tuple[Any, ...], options: dict[str, Any]) -> tuple[Programs, bool]:
        """The programs for this batch, and whether the first of them was captured just now."""
        if hooks := saved_tensor_hooks():
            _refuse_unless_pytorchs(hooks[0])
        key = self._key(batch, options)
        programs = self.programs.get(key)
        if programs is None or programs.tracked:
            refuse_histories(leaves := flat(batch, options), self.training.trained)
        if programs is None:
            programs = self.programs[key] = Programs(
                any(isinstance(x, torch.Tensor) and x.requires_grad for x in leaves)
            )
            why = "" if self.captures else "the first step"
        else:
            programs.drop_stale(self.training.optimizer, self.updates.alike, len(self.training.carried.averages))
            if programs.holding(flat(batch, options)):
                return programs, False
            why = "the model or the optimizer's state is elsewhere in memory, or steps began to update other parameters"
            if programs.all:
                why = f"{programs.all[0].graph.guards.changed()} is not what it was"
        programs.add(self.build(batch, options, why))
        return programs, True

    def _key(self, batch: tuple[Any, ...], options: dict[str, Any]) -> Any:
        hooked = tuple([has_hooks(p) for p in self._parameters])
        hooks = tuple([tuple(table) for table in self._hooks if table])
        return (geometry(batch, options), hooked, hooks, settings(self.training.optimizer, self.training.rates))

    def build(self, batch: tuple[Any, ...], options: dict[str, Any], why: str, concrete: bool = False) -> Program:
        """A program captured for this batch, for a reason (the batch itself, if there is none); ``concrete``: on its
        values."""

        def capture(concrete: bool) -> Program:
            return build(self.training, batch, options, self.choose, concrete, self.updates.alike)

        before = States()
        with progress.shown(), without_function_modes(), without_dispatch_modes():
            program = capture(concrete)
        self.captures.note(why, self.training.objective, batch, options)
        alike = self.training.gathers or not self.updates.alike or self.updates.note(program.updated)
        if not alike:  # other parameters than so far: its update took step counters for equal that will not be
            before.put_back()
            program.graph.guards.run_again()
            with without_function_modes(), without_dispatch_modes():
                program = capture(bool(program.decisions))
        self.check.new(program)
        return program

    def compare(
        self, program: Program, flat: list[Any], batch: tuple[Any, ...], options: dict[str, Any]
    ) -> Sequence[torch.Tensor] | None:
        """What the program computes, if it was due to be compared with PyTorch; one that fails is dropped."""
        if program.origin is None:
            return None
        try:
            return self.check(program, flat, batch, options)
        except GradientMismatchError:
            for programs in self.programs.values():
                programs.all = [other for other in programs.all if other is not program]
            raise


def _refuse_unless_pytorchs(pack: Any) -> None:
    """PyTorch's own hooks (``save_on_cpu``, checkpoints) change no number, those of others may."""
    if not str(getattr(pack, "__module__", "")).startswith("torch."):
        raise GraphError(
            f"saved_tensors_hooks with {getattr(pack, '__qualname__', pack)} are on around a step, and have no effect "
            "on it: autograd saves nothing there. Leave them out; memory_budget= keeps a step within a number of bytes"
        )
