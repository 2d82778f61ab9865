"""The gradients of a program, as they are asked for: what was foreseen a pass answers, the rest is computed again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from memograd._torch import inside_torch_func, is_batched
from memograd.errors import BackendError
from memograd.frontend.answers import Question
from memograd.frontend.boundary import Call
from memograd.frontend.chain import Ends, UnderWay
from memograd.frontend.expected import Expected, guesses
from memograd.frontend.held import HeldOpen
from memograd.frontend.load import refuse_shared_memory
from memograd.frontend.passes import Pass
from memograd.frontend.reach import Reach
from memograd.frontend.results import Results
from memograd.frontend.running import Running
from memograd.frontend.segments import bytes_of
from memograd.frontend.settings import Settings
from memograd.graph.entries import Input
from memograd.graph.graph import Graph
from memograd.tracing.undisturbed import Generators
from memograd.transforms.boundary import one_by_one


class Derivatives:
    """The gradients of a captured ``graph`` whose results autograd hands out.

    Args:
        handed: those of its results.
        values: its flat inputs at capture.

    Attributes:
        early: its inputs, one for each flat one.
        wrt: names of those that have a gradient.
        results, nodes: its results that autograd hands out, one entry each.
        mutations: positions of the new values that are written back out of autograd's sight.
        first: the pass that runs without a memory budget.
        expected: what it will be asked.
    """

    def __init__(self, graph: Graph, handed: Results, values: Sequence[Any], settings: Settings) -> None:
        self.graph, self.settings = graph, settings
        self.early: tuple[Input, ...] = graph.inputs
        self.wrt = [
            i.name for i, t in zip(graph.inputs, values, strict=True) if t is not None and (t.requires_grad or i.woken)
        ]
        self.results, self.nodes, self.mutations = handed.entries, handed.nodes, handed.mutations
        usual, of_leaves = guesses(self.results, self.early, values, self.wrt)
        if settings.memory_budget is not None:
            of_leaves = None  # nobody goes on within a plan
        self.expected = Expected(usual, of_leaves)
        self._plans: dict[Question, HeldOpen] = {}
        self._backend = self._backend_for(settings.backend)
        self._begin()
        self.first.expect(usual)
        if of_leaves:
            self.first.expect(of_leaves, further=True)
        if self._backend == "native" and not self.plain:
            self.first.running().compile()  # what it cannot run it refuses here, and not in the backward pass
        self._reach = Reach(graph, self.wrt, self.nodes)

    @cached_property
    def plain(self) -> bool:
        """Whether nothing is left to differentiate."""
        return not self.wrt or not any(o.tracked for o in self.results)

    def running(self) -> Running | HeldOpen:
        """What a call runs now."""
        plan = self.settings.plan if self.settings.memory_budget is not None else None
        if plan is None:
            return self.first.running()
        question = self.expected.last
        if question not in self._plans:
            self._plans[question] = HeldOpen(self.forward, len(self.results), question, plan)
        return self._plans[question]

    @cached_property
    def forward(self) -> Graph:
        """What autograd sees: the results that are handed out, then what is written back."""
        graph, written = self.graph, [self.graph.results[k] for k in self.mutations]
        outputs = (*self.results, *(graph.outputs[k] for k in self.mutations))
        return graph.rewritten(results=[*self.nodes, *written], outputs=outputs)

    def _backend_for(self, backend: str) -> str:
        """``backend``, or ``eager`` for ``auto`` where the native one is not to be thought of."""
        why = refuse_shared_memory(self.nodes)
        if why is not None and backend == "native":
            raise BackendError(
                f"{why}, and the native backend writes each to memory of its own: return a copy (.clone())"
            )
        return "eager" if why is not None and backend == "auto" else backend

    def _begin(self) -> None:
        """Begin with what the program alone does."""
        sources = [k for k, i in enumerate(self.early) if i.name in self.wrt]
        self.first = Pass(self.forward, len(self.results), sources, self._backend)

    @cached_property
    def _ends(self) -> Ends:
        """The inputs that some result depends on: autograd knows of no others, nor does who looks for parameters that
        have no part in a call."""
        reached = self._reach.of([k for k, o in enumerate(self.results) if o.tracked])
        known = sorted(reached) or [k for k, i in enumerate(self.early) if i.name in self.wrt]
        sizes = {k: bytes_of(self.graph.placeholders[k]) for k in known}
        return Ends(sizes, {k for k in known if self.early[k].kind == "parameter"})

    def under_way(
        self, call: Call, running: Any, question: Question, saved: list[Any], arriving: Sequence[Any]
    ) -> UnderWay:
        """What a pass of this program is to answer, for autograd to take as it is computed where several nodes do."""
        further = torch.is_grad_enabled() or inside_torch_func() or any(map(is_batched, arriving))
        if len(call.groups) > 1 and call.witness is None and self.settings.watch is None and not further:
            self._see(running, question, further, own=True)
            parts = running.in_segments(call, question, saved, arriving)
            if parts is not None:
                return UnderWay(parts, partial(self._reach.one_as_autograd, call, question))
        return UnderWay([self.pulled(call, running, question, call.flat, saved, arriving)])

    def pulled(
        self,
        call: Call,
        running: Any,
        question: Question,
        inputs: Sequence[Any],
        saved: list[Any],
        arriving: Sequence[Any],
    ) -> dict[int, Any]:
        """What a pass of this program is to answer, by position of the input.

        Args:
            running: the pass, as it ran on ``inputs`` and remembered ``saved``.
            arriving: the cotangents of those of its results that the question names.
        """
        own, further = inputs is call.flat, torch.is_grad_enabled()
        many = any(map(is_batched, arriving))
        if many:
            self.settings.say_unplanned(many)
        if many and further:
            witness, call.witness = call.witness, None  # it draws directions, which nobody may do here
            gradients = one_by_one(
                lambda each: self.pulled(call, running, question, inputs, list(saved), each), arriving
            )
            call.witness = witness
            return gradients
        gradients = theirs = None
        witness = call.witness if own and max(question[0]) < len(self.results) and not many else None
        if witness is not None:  # ahead of ours: the user's hooks find what PyTorch's would have found
            theirs = witness.derived(question, arriving, further, Generators())
        if not inside_torch_func():
            self._see(running, question, further, own)
            gradients = running.answer(call, question, saved, arriving, further)
        foreseen = gradients is not None
        if gradients is None:
            gradients = self._unforeseen(call, running, question, inputs, arriving, further)
        if own:
            if not many:
                self.look(call, question, gradients.values(), arriving)
            self._reach.as_autograd(call, question, gradients)
        if foreseen and isinstance(running, Running) and len(call.groups) == 1:
            running.get_ready(question, further, call.groups[0] if own else range(len(inputs)), gradients)
        if witness is not None:
            call.witness = None
            witness.compare(call, question, arriving, gradients, further, theirs)
        return gradients

    def look(self, call: Call, question: Question, gradients: Iterable[Any], arriving: Sequence[Any]) -> None:
        """Raises NonFiniteError where gradients are watched, and one is not finite."""
        if self.settings.watch is not None and max(question[0]) < len(self.results):
            self.settings.watch.look(call, question, gradients, arriving)

    def as_foreseen(self, call: Call, running: Any, question: Question) -> bool:
        """Whether this question of the program's own pass, which was answered before, may be answered the same way."""
        if call.witness is not None or running.of is not self.first or len(call.groups) > 1:
            return False
        self.expected.last = question
        return True

    def _see(self, running: Any, question: Question, further: bool, own: bool) -> None:
        """Remember what was asked, for the next call."""
        if own and self.expected.see(question, further):
            self._begin()  # nothing of what was remembered for the guess
        if isinstance(running, Running):
            (self.first if own else running.of).see(running, question, further)

    def _unforeseen(
        self,
        call: Call,
        running: Any,
        question: Question,
        inputs: Sequence[Any],
        arriving: Sequence[Any],
        further: bool,
    ) -> dict[int, Any]:
        """The answer from what the pass was called with, which it computes again."""
        own = inputs is call.flat
        if own:
            call.primals()
        if isinstance(running, Running):
            return running.afresh(call, question, inputs, arriving)
        if further or inside_torch_func():
            self.settings.say_unplanned(many=not further)
            return self.first.running().afresh(call, question, inputs, arriving)
        assert self.settings.memory_budget is not None
        again = HeldOpen(self.forward, len(self.results), question, self.settings.plan)
        with call.generators():
            call = copy.copy(call)
            call.running = None
            again.start(call, inputs)
            return again.answer(call, question, [], arriving, further) or {}
