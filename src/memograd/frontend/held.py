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
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from memograd.frontend.segments import paused
from memograd.graph.entries import Output
from memograd.graph.graph import Graph
from memograd.graph.printing import load
from memograd.graph.rewriting import Rewriting
from memograd.graph.signature import run
from memograd.graph.views import owner
from memograd.looks import trusting
from memograd.memory.plan import Plan
from memograd.ops import receive

Running = Generator[Any, Any, Any]
_LINE = re.compile(r"^(\s+\w+) = torch\.ops\.memograd\.receive\.default\((\[.*\]), \[[\d, ]*\]\)", re.MULTILINE)


def receiving(joint: Graph) -> Graph:
    """``joint`` with the cotangents received behind the results; it returns the gradients alone.

    The results are those that are no gradients, in their order; a cotangent is taken to be like the result it is of.
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
    received = new.fx.call_function(receive, ([new.where[n] for n, _ in results], which))
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
    late = {n for n, i in zip(joint.placeholders, joint.inputs, strict=True) if i.kind == "cotangent"}
    read: set[fx.Node] = set()
    for node in joint.nodes:
        if not late.isdisjoint(node.all_input_nodes):
            late.add(node)
            read.update(owner(n) for n in node.all_input_nodes if n not in late)
    results = [n for n, o in zip(joint.results, joint.outputs, strict=True) if o.kind != "gradient"]
    return [k for k, n in enumerate(results) if owner(n) in read]


def held_open(plan: Plan, sizes: Sequence[int]) -> tuple[Callable[..., Running], list[list[int]]]:
    """What runs ``plan``, whose gradients have these sizes: ``next`` gives the results; what follows takes the
    cotangents and gives the gradients, by position. Also which of them come together."""
    text, count = _LINE.subn(r"\1 = yield \2", plan.code)
    assert count == 1, f"a plan of a wrapped model has one place to wait at, this one {count}"
    text, together = paused(text, sizes)
    return load(text, "step"), together


def resumed(running: Running, cotangents: Sequence[torch.Tensor]) -> Iterator[dict[int, torch.Tensor]]:
    """The gradients, by position, some at a time."""
    resume = functools.partial(running.send, cotangents)
    with suppress(StopIteration):
        while True:
            with trusting():
                handed = run(resume, [])
            resume = functools.partial(next, running)
            yield handed
