"""What a step says of itself: what was asked for, what the program last run is, and the norm that it found."""

from __future__ import annotations

import torch
from torch import optim

from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.train.carried import Carried
from memograd.train.check import Check
from memograd.train.chooser import Chooser
from memograd.train.finish import Finish
from memograd.train.program import Program
from memograd.train.program_cache import ProgramCache
from memograd.train.refinements import Refinements
from memograd.train.update import why_not


class Answers:
    """What ``TrainStep`` answers. Before the first step there is nothing to say of what runs: GraphError."""

    optimizer: optim.Optimizer
    _cache: ProgramCache
    _carried: Carried
    _chooser: Chooser
    _check: Check
    _last: Program | None
    _refinements: Refinements
    _update: Finish

    @property
    def graph(self) -> Graph:
        """The graph of the step last run."""
        return self._required().graph

    @property
    def captures(self) -> list[str]:
        """Why the model was captured, each time."""
        return self._cache.captures

    @property
    def backend(self) -> str:
        """The backend that was asked for."""
        return self._chooser.backend

    @property
    def memory_budget(self) -> int | str | Plan | None:
        """The memory budget that was asked for."""
        return self._chooser.memory_budget

    @property
    def backend_name(self) -> str:
        """The backend of the step last run."""
        return self._required().choice.backend.name

    @property
    def backend_reason(self) -> str:
        """Why that backend, how it updates parameters, and why the optimizer is called, if it is."""
        program = self._required()
        why = why_not(self.optimizer) or ("hooks on parameters wait for gradients" if program.gradients else None)
        called = f"; {type(self.optimizer).__name__}.step() is called behind the graph: {why}" if why else ""
        how = self._update.how if program.gathers else program.choice.backend.how
        return program.choice.reason + (f"; {how}" if how else "") + called

    @property
    def check_reason(self) -> str:
        """How the last comparison with ``torch.autograd`` came out, or why there was none."""
        return self._check.reason

    @property
    def plan(self) -> Plan | None:
        """The memory plan of the step last run; None without a budget."""
        return self._required().choice.backend.plan

    @property
    def averages(self) -> bool:
        """Whether the step averages weights (``ema_decay``)."""
        return self._refinements.ema_decay is not None

    @property
    def grad_norm(self) -> torch.Tensor:
        """The norm of all gradients at the last update, before they were clipped.

        Raises:
            GraphError: there was no update yet, or it needs no norm (``clip_grad_norm``).
        """
        if self._refinements.clip.norm is None:
            raise GraphError("this step computes no norm: make it with clip_grad_norm=1.0, or inf to clip nothing")
        if self._carried.norm is None:
            raise GraphError("no update was made yet")
        return self._carried.norm.clone()

    def _required(self) -> Program:
        if self._last is None:
            raise GraphError("no step was run yet")
        return self._last
