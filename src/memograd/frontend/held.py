"""One plan over forward and backward, held open between the two.

The whole derivative is planned as one graph in which the cotangents are the results of one operator, ``receive``, that
reads the results of the model: so whatever the schedule, these come first. The plan's text becomes a generator, which
hands the results out at that line and waits there for the cotangents; its frame holds what the plan says, no more and
no longer. Behind the cotangents it pauses where gradients are there, and hands them out.
"""

from __future__ import annotations

import functools
import operator
import re
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from memograd.frontend.answers import Question
from memograd.frontend.boundary import Call
from memograd.frontend.chain import placed
from memograd.frontend.results import apart
from memograd.frontend.segments import bytes_of, paused
from memograd.graph.entries import Output
from memograd.graph.graph import Graph
from memograd.graph.own_memory import own_memory
from memograd.graph.printing import load
from memograd.graph.reach import behind_cotangents
from memograd.graph.rewriting import Rewriting
from memograd.graph.signature import run
from memograd.graph.views import owner
from memograd.looks import look, trusting
from memograd.lower.lower import lower
from memograd.memory.plan import Plan
from memograd.ops import receive
from memograd.pipeline import differentiate
from memograd.run.pool.places import Reused

Running = Generator[Any, Any, Any]
_LINE = re.compile(r"^(\s+\w+) = torch\.ops\.memograd\.receive\.default\((\[.*\]), \[[\d, ]*\]\)", re.MULTILINE)


def receiving(joint: Graph) -> Graph:
    """``joint`` with the cotangents received behind the results; it returns the gradients alone.

    The results are those that are no gradients, in their order, and then the looks at values: who gets the results
    relies on what was seen. A cotangent is taken to be like the result it is of.
    """
    pairs = list(zip(joint.placeholders, joint.inputs, strict=True))
    cotangents = [(n, i) for n, i in pairs if i.kind == "cotangent"]
    late = {n for n, _ in cotangents}
    for node in joint.nodes:
        if not late.isdisjoint(node.all_input_nodes):
            late.add(node)
    results = [(n, o) for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind != "gradient"]
    which = [next(k for k, (_, o) in enumerate(results) if o.name == i.of) for _, i in cotangents]
    new = Rewriting()
    new.write([*(n for n, i in pairs if i.kind != "cotangent"), *(n for n in joint.nodes if n not in late)])
    looks = [n for n in joint.nodes if n.target is look and n not in late]
    received = new.fx.call_function(receive, ([new.where[n] for n in (*(n for n, _ in results), *looks)], which))
    received.meta["val"] = [n.meta["val"] for n, _ in cotangents]
    for k, (node, _) in enumerate(cotangents):
        new.where[node] = new.fx.call_function(operator.getitem, (received, k))
        new.where[node].meta["val"] = node.meta["val"]
    gradients = [(n, o) for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind == "gradient"]
    return joint.rewritten(
        new=new,
        results=[n for n, _ in gradients],
        inputs=tuple(i for _, i in pairs if i.kind != "cotangent"),
        outputs=tuple(Output("output", o.name) for _, o in gradients),
    ).verify()


def read_late(joint: Graph) -> list[int]:
    """The results (by position among those that are no gradients) whose memory is read behind the cotangents."""
    late = behind_cotangents(joint)
    read = {owner(n) for node in late for n in node.all_input_nodes if n not in late}
    results = [n for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind != "gradient"]
    return [k for k, n in enumerate(results) if owner(n) in read]


def held_open(plan: Plan, sizes: Sequence[int]) -> tuple[Callable[..., Running], list[list[int]]]:
    """What runs ``plan``, whose gradients have these sizes: ``next`` gives the results; what follows takes the
    cotangents and gives the gradients, by position. Also which of them come together."""
    text, count = _LINE.subn(r"\1 = yield \2", plan.code)
    assert count == 1, f"a plan of a wrapped model has one place to wait at, this one {count}"
    text, together = paused(text, sizes)
    return load(text, "step"), together


def resumed(running: Running, cotangents: Sequence[torch.Tensor], memory: Reused) -> Iterator[dict[int, torch.Tensor]]:
    """The gradients, by position, some at a time."""
    resume = functools.partial(running.send, cotangents)
    with suppress(StopIteration):
        while True:
            with trusting(), memory:
                handed = run(resume, [])
            resume = functools.partial(next, running)
            yield handed


class HeldOpen:
    """A program and the gradients that one question asks for, as one plan.

    Args:
        graph: ``count`` results first, then what is written back.
        plan: makes a plan of a graph.

    Attributes:
        complex: whether results may be so.
    """

    complex = True

    def __init__(self, graph: Graph, count: int, question: Question, plan: Callable[[Graph], Plan]) -> None:
        self.question = question
        used, wanted = question
        names = [i.name for i in graph.inputs]
        among = [graph.outputs[k].name for k in used]
        joint = own_memory(differentiate(graph, [names[k] for k in wanted], cotangents="output", among=among))
        self.plan = plan(receiving(joint))
        self.places = [names.index(joint.outputs[k].name) for k in joint.positions("gradient")]
        self.constants = [i.tensor for i in joint.inputs if i.tensor is not None and i.name not in names]
        self.constant = [k for k in range(count) if not graph.outputs[k].tracked]
        sizes = [bytes_of(joint.results[k]) for k in joint.positions("gradient")]
        self._open, self._together = held_open(self.plan, sizes)
        # what is written back is copied: nobody else has the plan's own
        self._needed = [k for k in read_late(lower(joint)) if k < count]
        self._count, self._own = count, len(graph.outputs)
        self._memory = Reused()
        self.ready: dict[Any, Any] = {}  # a plan answers each time anew

    def start(
        self, call: Call, inputs: Sequence[Any]
    ) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], list[torch.Tensor]]:
        """(results, what is written back, what autograd is to save)"""
        call.running = self._open(*inputs, *self.constants)
        with self._memory:
            handed = run(next, [call.running])
        saved = [torch.empty(0)]  # something for autograd to have freed
        # what waits must not hold what autograd hands out, whose history holds what waits
        call.handed = [(weakref.ref(r), r._version) for r in handed[: self._count]]
        twins = [r.view_as(r) for r in handed[: self._count]]
        return apart(twins, inputs), handed[self._count : self._own], saved

    def usual(self, pattern: Any) -> None:
        """Nothing is usual: a plan answers each time anew."""

    def together(self, question: Question) -> list[list[int]]:
        """The inputs whose gradients come together, those that come first first."""
        return [[self.places[k] for k in group] for group in self._together]

    def surely(self, used: tuple[int, ...]) -> frozenset[int]:
        """The inputs whose gradients are wanted in any case: nobody knows."""
        return frozenset()

    def answer(
        self, call: Call, question: Question, saved: list[Any], arriving: Sequence[Any], further: bool
    ) -> dict[int, Any] | None:
        """The gradients by position of their input; None where this was not foreseen, or the plan has run to its end.

        Raises:
            RuntimeError: what the plan needs was written to since.
        """
        parts = None if further else self.in_segments(call, question, saved, arriving)
        return None if parts is None else {k: v for part in parts for k, v in part.items() if k in question[1]}

    def in_segments(
        self, call: Call, question: Question, saved: list[Any], arriving: Sequence[Any]
    ) -> Iterator[dict[int, torch.Tensor]] | None:
        """The same, some gradients at a time."""
        (used, wanted), (own, all_of_them) = question, self.question
        if call.running is None or used != own or not {*wanted} <= {*all_of_them}:
            return None
        call.primals()
        call.refuse_written_results(self._needed)
        running, call.running = call.running, None
        return placed(resumed(running, arriving, self._memory), self.places)
