"""What autograd goes through as one step: a program, the gradients of it that somebody asks for, and theirs.

A *question* is what autograd asks a pass with: which of its results have cotangents, and which inputs' gradients are
wanted. The answer is again a graph, of what the pass has remembered for it and of the cotangents; where somebody goes
on from the gradients (``create_graph``) that graph is the next pass. What was remembered is then among the results of
the pass before it, so that cotangents of second order meet those of first order where they belong, and go on as one.

Sums of many gradients depend on their order, and autograd's is that of its nodes: last computed, first added, and where
a value is read through a view, the view's are added up first. A pass behind another one that somebody goes on from
therefore remembers what rules read, as they read it. Compiled backends add in an order of their own anyway, and save
what takes less.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from memograd._torch import without_dispatch_modes
from memograd.adjoint.activity import active_nodes
from memograd.adjoint.partition import cut
from memograd.frontend.answers import Answer, Question
from memograd.frontend.running import AGAIN, Running, derived
from memograd.frontend.uses import each_use
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.own_memory import own_memory
from memograd.lower.differentiable import differentiable
from memograd.simplify import dead

_MOST = 8  # questions of one pass; for each it may remember more
_OWN_ORDER = ("inductor", "native")  # backends that add in another order than PyTorch's kernels

Slot = tuple[bool, int]  # (an input?, its position)


class Pass:
    """A graph that autograd goes through as one step, and what it was asked so far.

    Args:
        graph: its results, then what else it returns (new values of buffers).
        count: how many results.
        sources: positions of the inputs that have a gradient.
        backend: what runs it, see ``load``.
        behind: it is the answer to a question, of another one.

    Attributes:
        bare: its graph, as long as nothing is remembered.
        wanted: by which results were used, the inputs whose gradients were wanted whenever they were.
        times: how often this was asked for.
        beginning: of what is remembered now.
    """

    def __init__(self, graph: Graph, count: int, sources: Sequence[int], backend: str, behind: bool = False) -> None:
        self.bare = graph
        self.inputs = len(graph.inputs)
        self.count = count
        self.own = len(graph.outputs)  # what it returns besides what is to be remembered
        self.sources = frozenset(sources)
        self.backend = backend
        self.wanted: dict[tuple[int, ...], frozenset[int]] = {}
        self.times = 0
        self._behind = behind
        self._turn = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.wanted.clear()
        self.graph = self.bare
        self.followed = False  # somebody goes on from the answers: what they read is handed out
        self.slots: list[Slot] = []  # what is remembered
        self.smooth: list[bool] = []  # which of these have a gradient
        self.answers: dict[Question, Answer] = {}
        self._asked: list[Question] = []
        self._continued: set[Question] = set()  # somebody went on from the answer
        self._guessed = False
        self.beginning = object()
        self._running: Running | None = None

    @property
    def in_order(self) -> bool:
        """Whether sums are to come as autograd's, to the last bit."""
        return self.backend not in _OWN_ORDER

    def guess(self) -> None:
        """Be ready for whatever somebody may ask first, and go on from."""
        used = tuple(k for k in range(self.count) if self.graph.outputs[k].tracked)
        self.expect((used, tuple(sorted(self.sources))), further=True)
        self._guessed = True

    def see(self, running: Running, question: Question, further: bool) -> None:
        """Somebody asked this of ``running``, and goes on ``further`` from the answer, or not."""
        with self._turn:
            if self._guessed:  # and now it is known
                self._begin()
        if running.beginning is not self.beginning and max(question[0]) >= self.count:
            return  # of what was remembered for the guess alone
        used, wanted = question
        self.wanted[used] = self.wanted.get(used, frozenset(wanted)).intersection(wanted)
        self.expect(question, further)

    def expect(self, question: Question, further: bool = False) -> None:
        """Be ready for this, from the next call on."""
        with self._turn:
            if further and question not in self._continued:
                self.followed, self._running = True, None
                self._continued.add(question)
                self.answers.pop(question, None)
            known = question in self.answers or question in self._asked
            if not known and len(self.answers) + len(self._asked) < _MOST:
                self._asked.append(question)
                self._running = None

    def surely(self, used: tuple[int, ...]) -> frozenset[int]:
        """The inputs whose gradients were wanted whenever these results were used; now and then none, to see whether
        that still holds. (One too many is computed in vain, and no more.)"""
        self.times += 1
        return self.wanted.get(used, frozenset()) if self.times % AGAIN else frozenset()

    def running(self) -> Running:
        """As it runs now, ready for all that was asked before."""
        if (running := self._running) is not None:
            return running
        with self._turn:
            if self._running is None:
                asked, self._asked = self._asked, []
                with without_dispatch_modes():
                    for question in asked:
                        self.answers[question] = self._answer(question)
                self._running = Running(self)
            return self._running

    def _answer(self, question: Question) -> Answer:
        further = question in self._continued
        early, late = self._halves(self.graph, question, further)
        reads = self._remember(early)
        return self._behind_it(question, late, reads, [self.smooth[k] for k in reads], further)

    def answer_of(self, running: Running, question: Question, further: bool) -> Answer | None:
        """The answer that nobody was ready for when ``running`` ran; None where not all that it reads is remembered."""
        early, late = self._halves(running.graph, question, further)
        before = range(len(running.graph.outputs))
        slots = [_slot(early, k, before) for k in range(len(before), len(early.outputs))]
        reads = [running.slots.index(slot) for slot in slots if slot in running.slots]
        if len(reads) < len(slots):
            return None
        return self._behind_it(question, late, reads, [running.smooth[k] for k in reads], further)

    def _halves(self, graph: Graph, question: Question, further: bool) -> tuple[Graph, Graph]:
        """What of the answer runs with the pass, and what behind it."""
        joint = own_memory(derived(graph, self, question, further))
        if further:
            joint = differentiable(joint)
        return cut(joint, fused=self.backend == "inductor", as_read=further and self._behind and self.in_order)

    def _behind_it(
        self, question: Question, late: Graph, reads: Sequence[int], smooth: Sequence[bool], further: bool
    ) -> Answer:
        """``late`` as a pass; ``smooth``: which of what it reads have a gradient."""
        names = [self.graph.inputs[k].name for k in question[1]]
        if further and self.in_order:
            late, positions = each_use(late, smooth)
            saved = [k for k in positions if k < len(reads)]
            reads, smooth = [reads[k] for k in saved], [smooth[k] for k in saved]
        inputs = tuple(Input("input", f"input {k}") for k in range(len(late.inputs)))
        outputs = tuple(Output("output", f"gradient {k}", tracked=True) for k in range(len(late.outputs)))
        places = tuple(question[1][names.index(o.name)] for o in late.outputs)
        graph = late.with_fx(late.fx, inputs=inputs, outputs=outputs, wrt=())
        sources = [k for k in range(len(inputs)) if k >= len(smooth) or smooth[k]]
        behind = Pass(graph, len(outputs), sources, self.backend, behind=True)
        if further and self.in_order:
            behind.guess()
        return Answer(behind, tuple(reads), places)

    def _remember(self, early: Graph) -> list[int]:
        """Take ``early`` for the graph, and those of its last results along that are no results before; where all of
        them are among what is remembered."""
        before = len(self.graph.outputs)
        chosen, slots = list(range(before)), []
        for k in range(before, len(early.outputs)):
            slot = _slot(early, k, chosen)
            if slot is None:
                chosen.append(k)
                slot = False, len(chosen) - 1
            slots.append(slot)
        outputs = [replace(early.outputs[k], name=f"saved {at}") for at, k in enumerate(chosen[before:], before)]
        outputs = (*self.graph.outputs, *outputs)
        self.graph = dead(early.rewritten(results=[early.results[k] for k in chosen], outputs=outputs, wrt=()))
        given = [n for k, n in enumerate(self.graph.placeholders) if k in self.sources]
        active = set(active_nodes(given, self.graph.results))
        for slot in slots:
            if slot not in self.slots:
                self.slots.append(slot)
                own = self.graph.placeholders if slot[0] else self.graph.results
                handed = slot[0] or slot[1] >= self.own or self.graph.outputs[slot[1]].tracked
                self.smooth.append(handed and own[slot[1]] in active)
        return [self.slots.index(slot) for slot in slots]


def _slot(early: Graph, k: int, among: Sequence[int]) -> Slot | None:
    """Where the result ``k`` of ``early`` is found, among its inputs or these of its results; None: nowhere."""
    node = early.results[k]
    if node.op == "placeholder":
        return True, early.placeholders.index(node)
    return next(((False, at) for at, j in enumerate(among) if early.results[j] is node), None)
