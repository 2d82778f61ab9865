"""A pass as it runs: ready for some questions, with what it remembers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from memograd._torch import without_dispatch_modes
from memograd.frontend.answers import Answer, Question, Ready
from memograd.frontend.boundary import Call
from memograd.frontend.chain import placed
from memograd.frontend.load import build_of, loaded
from memograd.frontend.picking import picked
from memograd.frontend.results import apart
from memograd.frontend.segments import Segments
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.graph.views import is_view
from memograd.looks import look, trusting
from memograd.lower.lower import lower
from memograd.pipeline import differentiate, simplify
from memograd.transforms.batches import for_batches
from memograd.transforms.boundary import Step, only

if TYPE_CHECKING:
    from memograd.frontend.passes import Pass

Tensor = torch.Tensor
AGAIN = 50  # calls, until what is taken for granted is looked at again
_MOST = 8  # ways in which autograd comes with a question
_UNUSUAL = None, frozenset()


def _ready(graph: Graph, backend: str) -> Callable[[list[Any]], tuple[Tensor, ...]]:
    """``graph`` as a function; making it is nothing that the caller's modes see."""
    with without_dispatch_modes():
        return loaded(lower(graph), backend)


def derived(graph: Graph, of: Pass, question: Question, further: bool = False) -> Graph:
    """``graph``, one of a pass, and the gradients that a question asks for; ``further``: to be differentiated on."""
    used, wanted = question
    outputs = [k if k < of.count else of.own + k - of.count for k in used]
    among = [graph.outputs[k].name for k in outputs]
    return differentiate(
        graph,
        [graph.inputs[k].name for k in wanted],
        cotangents="output",
        among=among,
        keep_views=further and of.in_order,
    )


class Running:
    """A pass as it was ready for some questions: nothing about it changes.

    What it hands out are its results and, where somebody goes on from the answers, what is remembered for these.

    Attributes:
        complex: whether any of that is.
    """

    def __init__(self, of: Pass) -> None:
        self.of = of
        self.graph, self.beginning = of.graph, of.beginning
        self.followed = of.followed
        self.answers = dict(of.answers)
        self.slots, self.smooth = tuple(of.slots), tuple(of.smooth)
        outputs = range(of.own, len(self.graph.outputs)) if self.followed else ()
        self.handed = (*range(of.count), *outputs)
        self._hand_out = picked(self.handed)
        self._views = [at for at, k in enumerate(self.handed) if k >= of.own and is_view(self.graph.results[k])]
        count = len(self.graph.outputs)
        self._save = picked([count + k if is_input else k for is_input, k in of.slots])
        self.surely = of.surely
        smooth = {at for (is_input, at), s in zip(of.slots, of.smooth, strict=True) if s and not is_input}
        tracked = {k for k in range(of.count) if self.graph.outputs[k].tracked}
        self.constant = [at for at, k in enumerate(self.handed) if k not in (tracked if k < of.count else smooth)]
        self.constants = [i.tensor for i in self.graph.inputs[of.inputs :]]
        self.complex = any(self.graph.results[k].meta["val"].is_complex() for k in self.handed)
        self._looks = any(n.target is look for n in self.graph.nodes)
        self.ready: dict[tuple[Question, bool], Ready] = {}
        self._usual: dict[Any, tuple[Ready, frozenset[int]]] = {}
        self._unready: dict[tuple[Question, bool], Answer | None] = {}
        self._afresh: dict[Question, tuple[Step, Graph, list[int]]] = {}

    @cached_property
    def _function(self) -> Callable[[list[Any]], tuple[Tensor, ...]]:
        return _ready(self.graph, self.of.backend)

    @cached_property
    def _alone(self) -> Callable[[list[Any]], tuple[Tensor, ...]]:
        """The same without what would be remembered."""
        return self._function if self._without is self.graph else _ready(self._without, self.of.backend)

    @cached_property
    def _without(self) -> Graph:
        """Its graph by the kernels that it was written with: those that have a formula may have been replaced by that
        for the sake of what is remembered."""
        if self.graph is self.of.bare:
            return self.graph
        with without_dispatch_modes():
            return simplify(self.of.bare)

    def start(self, call: Call, inputs: Sequence[Any]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """(what is handed out, what else is returned, what is remembered)"""
        given = [*inputs, *self.constants]
        out = run(self._function, [given.copy()])
        results = self._hand_out(out)
        handed = apart(self._without_views(results), given)
        if handed is not results:
            out = list(out)
            for k, result in zip(self.handed, handed, strict=True):
                out[k] = result
        return handed, out[self.of.count : self.of.own], self._save([*out, *given])

    def _without_views(self, results: Sequence[Tensor]) -> Sequence[Tensor]:
        """``results``; of what is remembered the views, which only the pass behind reads, detached."""
        if not self._views:
            return results
        own = list(results)
        for at in self._views:
            own[at] = own[at].detach()
        return own

    def compile(self) -> None:
        """Make ready what runs, and what answers. Raises BackendError where the backend cannot."""
        _ = self._function, [answer.gradients.running()._alone for answer in self.answers.values()]

    def answer(
        self, call: Call, question: Question, saved: list[Any], arriving: Sequence[Any], further: bool
    ) -> dict[int, Any] | None:
        """The gradients by position of their input; None where this was not foreseen. Empties ``saved``."""
        answer = self._wide(question, further)
        if answer is None:
            return None
        values = answer.values(call, saved, arriving, further)
        return {k: v for k, v in zip(answer.places, values, strict=False) if k in question[1]}

    def get_ready(
        self, question: Question, further: bool, places: Iterable[int], gradients: Mapping[int, Tensor | None]
    ) -> None:
        """Answer this question the same way from now on. ``gradients`` are what it was answered with; ``places``: of
        which inputs, in order, autograd is handed them."""
        answer = self._wide(question, further)
        if answer is None:
            return
        at = {place: k for k, place in enumerate(answer.places)}
        order = [None if gradients.get(k) is None else at.get(k, -1) for k in places]
        if -1 not in order:
            self.ready[question, further] = Ready(question, answer, further, tuple(order))

    def usual(self, pattern: Any) -> Ready | None:
        """How a question was answered that autograd came with in the same way, where nobody has to be asked whether it
        is the same question."""
        ready, surely = self._usual.get(pattern, _UNUSUAL)
        if ready is None:
            return None
        self.of.times += 1
        return ready if self.of.times % AGAIN and self.of.wanted.get(ready.question[0]) is surely else None

    def expect_usually(self, pattern: Any, ready: Ready, surely: frozenset[int]) -> None:
        """This is the question that autograd has when it comes like that, as long as the same inputs ``surely`` get
        their gradients."""
        if pattern in self._usual or len(self._usual) < _MOST:
            self._usual[pattern] = ready, surely

    def alone(self, given: list[Any]) -> tuple[Tensor, ...]:
        """What this pass returns, without what would be remembered. Empties ``given``."""
        if not self._looks:
            return run(self._alone, [given])
        with trusting():
            return run(self._alone, [given])

    @cached_property
    def segments(self) -> Segments:
        """The same in segments, as gradients are done."""
        return Segments(lower(self._without), lambda graph: loaded(graph, self.of.backend))

    def together(self, question: Question) -> list[list[int]]:
        """The inputs whose gradients come together, those that come first first."""
        answer = self.answers.get(question)
        if answer is None:
            return [[*question[1]]]
        return [[answer.places[k] for k in group] for group in answer.gradients.running().segments.groups]

    def in_segments(
        self, call: Call, question: Question, saved: list[Any], arriving: Sequence[Any]
    ) -> Iterator[dict[int, Tensor]] | None:
        """What ``answer`` gives, some gradients at a time."""
        answer = self._wide(question, further=False)
        if answer is None:
            return None
        behind = answer.gradients.running()
        given = [*(saved[k] for k in answer.reads), *arriving]
        saved.clear()
        return placed(behind.segments.run(given), answer.places)

    def _wide(self, question: Question, further: bool) -> Answer | None:
        """The answer to a question, or to a wider one where nobody goes on from it."""
        if question in self.answers:
            return self.answers[question] if self.followed or not further else None
        if further and not self.followed:
            return None
        wider = (a for q, a in self.answers.items() if q[0] == question[0] and {*q[1]} > {*question[1]})
        if not further and (answer := next(wider, None)) is not None:
            return answer
        if (question, further) not in self._unready:
            with without_dispatch_modes():
                self._unready[question, further] = self.of.answer_of(self, question, further)
        return self._unready[question, further]

    def afresh(self, call: Call, question: Question, inputs: Sequence[Any], arriving: Sequence[Any]) -> dict[int, Any]:
        """The same, computed from the inputs once more."""
        if question not in self._afresh:
            with without_dispatch_modes():
                joint = derived(self.graph, self.of, question)
            gradients = joint.positions("gradient")
            names = [i.name for i in joint.inputs]
            places = [names.index(joint.outputs[k].name) for k in gradients]
            step = Step(only(joint, gradients), for_batches, build_of(self.of.backend))
            self._afresh[question] = step, joint, places
        step, joint, places = self._afresh[question]
        given, late = iter(inputs), iter(arriving)
        flat = [
            next(late) if i.kind == "cotangent" else next(given) if k < self.of.inputs else i.tensor
            for k, i in enumerate(joint.inputs)
        ]
        return dict(zip(places, step(flat, call.generators), strict=True))
