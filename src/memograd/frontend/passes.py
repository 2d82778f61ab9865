"""What autograd goes through as one step: a program, the gradients of it that somebody asks for, and theirs.

A *question* is what autograd asks a pass with: which of its results have cotangents, and which inputs' gradients are
wanted. The answer is again a graph, of what the pass has remembered for it and of the cotangents; where somebody goes
on from the gradients (``create_graph``) that graph is the next pass. What was remembered is then among the results of
the pass before it, so that cotangents of second order meet those of first order where they belong, and go on as one.
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
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.own_memory import own_memory
from memograd.lower.differentiable import differentiable
from memograd.simplify import dead

_MOST = 8  # questions of one pass; for each it may remember more


class Pass:
    """A graph that autograd goes through as one step, and what it was asked so far.

    Args:
        graph: its results, then what else it returns (new values of buffers).
        count: how many results.
        sources: positions of the inputs that have a gradient.
        backend: what runs it, see ``load``.

    Attributes:
        wanted: by which results were used, the inputs whose gradients were wanted whenever they were.
        times: how often this was asked for.
    """

    def __init__(self, graph: Graph, count: int, sources: Sequence[int], backend: str) -> None:
        self.graph = graph
        self.inputs = len(graph.inputs)
        self.count = count
        self.own = len(graph.outputs)  # what it returns besides what is to be remembered
        self.sources = frozenset(sources)
        self.backend = backend
        self.followed = False  # somebody goes on from the answers: what they read is handed out
        self.slots: list[tuple[bool, int]] = []  # what is remembered: (an input?, its position)
        self.smooth: list[bool] = []  # which of these have a gradient
        self.answers: dict[Question, Answer] = {}
        self._asked: list[Question] = []
        self._continued: set[Question] = set()  # somebody went on from the answer
        self.wanted: dict[tuple[int, ...], frozenset[int]] = {}
        self.times = 0
        self._running: Running | None = None
        self._turn = threading.Lock()

    def see(self, question: Question, further: bool) -> None:
        """Somebody asked this, and goes on ``further`` from the answer, or not."""
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
        joint = own_memory(derived(self.graph, self, question))
        if question in self._continued:
            joint = differentiable(joint)
        names = [self.graph.inputs[k].name for k in question[1]]
        early, late = cut(joint, fused=self.backend == "inductor")
        slots = self._remember(early)
        has = [self.smooth[k] for k in slots]
        inputs = tuple(Input("input", f"input {k}") for k in range(len(late.inputs)))
        outputs = tuple(Output("output", f"gradient {k}", tracked=True) for k in range(len(late.outputs)))
        places = tuple(question[1][names.index(o.name)] for o in late.outputs)
        behind = late.with_fx(late.fx, inputs=inputs, outputs=outputs, wrt=())
        sources = [k for k in range(len(inputs)) if k >= len(has) or has[k]]
        return Answer(Pass(behind, len(outputs), sources, self.backend), tuple(slots), places)

    def _remember(self, early: Graph) -> list[int]:
        """Take ``early`` for the graph, and those of its last results along that are no results before; where all of
        them are among what is remembered."""
        before = len(self.graph.outputs)
        chosen, slots = list(range(before)), []
        for k in range(before, len(early.outputs)):
            node = early.results[k]
            if node.op == "placeholder":
                slot = (True, early.placeholders.index(node))
            else:
                twins = [at for at, j in enumerate(chosen) if early.results[j] is node]
                if not twins:
                    chosen.append(k)
                slot = (False, twins[0] if twins else len(chosen) - 1)
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
