"""What a program remembers past what is left anew at each run: tensors in a ``functools.cache``, and ids of tensors.

Python's cache keeps the first result for good. A graph computes it at each run: the same where nothing that it depends
on changes (a mask, a table of frequencies), and another where it depends on what is trained, drawn or passed in.
"""

from __future__ import annotations

import collections
import gc
from collections.abc import Collection, Iterable
from typing import Any

from torch import fx

from memograd.errors import CaptureError
from memograd.ops import is_random
from memograd.tracing.caches import Before, computed_otherwise
from memograd.tracing.effects import Change
from memograd.tracing.ids import values_in, written_in
from memograd.tracing.inputs import Inputs
from memograd.tracing.reachable import reachable
from memograd.tracing.tracer import Tracer
from memograd.tracing.unseen import Shown


def refuse_remembered(functions: Iterable[tuple[Any, Before]], tracer: Tracer, inputs: Inputs) -> None:
    """Raises CaptureError where one of these ``functools.cache``d functions, each with what it remembered before
    the program ran, has got something that another run would compute otherwise."""
    for function, asked in functions:
        if function.cache_info().misses == asked.misses:
            continue
        name = getattr(function, "__qualname__", "a function")
        if computed_otherwise(function, asked):
            raise CaptureError(
                f"{name}, which remembers its results (functools.cache), has one with a tensor and a number in it, and "
                "another number each time it is computed: PyTorch would keep the first. Let it return the number alone"
            )
        held = gc.get_referents(function)
        keys = [key for table in held if isinstance(table, dict) for key in table]  # what it was called with
        tensors = [t for t in reachable(*held, *keys) if tracer.knows(t) and id(t) not in inputs.users]
        nodes = {tracer.node_of(t) for t in tensors}
        why = _changing(nodes, tracer, inputs)
        if why:
            raise CaptureError(
                f"{name}, which remembers its results (functools.cache), has one that depends on {why}: PyTorch would "
                "keep the first, and a graph compute it at each run. Keep it in an attribute of the model, or compute "
                "it before"
            )


def _changing(nodes: Collection[fx.Node], tracer: Tracer, inputs: Inputs) -> str:
    """What ``nodes`` depend on that is another one at another run; empty where nothing is."""
    before, waiting = set(nodes), list(nodes)
    while waiting:
        operands = [n for n in waiting.pop().all_input_nodes if n not in before]
        before.update(operands)
        waiting += operands
    if any(is_random(n) for n in before):
        return "random numbers"
    written = {s.origin for s in tracer.storages() if s.version}
    for entry, node in zip(inputs.entries, inputs.stood_for, strict=True):
        asked = entry.kind == "input" and node not in nodes  # else it is remembered for this very tensor
        trained = entry.kind == "parameter" and entry.tensor is not None and entry.tensor.requires_grad
        if node in before and (asked or trained or node in written):
            return f"the {entry.kind} {entry.name!r}"
    return ""


def refuse_ids(changes: Iterable[Change], tracer: Tracer, inputs: Inputs) -> None:
    """Raises CaptureError where ids of tensors of the capture, or their texts, are among what the program leaves."""
    asked = {of for _, of in tracer.asked_ids}
    for _, key, value, name in changes:
        held = value if isinstance(value, (list, tuple, set, frozenset, collections.deque)) else [value]
        if any(isinstance(x, Shown) for x in held):
            raise CaptureError(
                f"the program leaves the text of a tensor in {name!r}: at each run of a graph it would be that of the "
                "capture. Leave the tensor (x.detach()) there, and write it out where it is read"
            )
        left = list(values_in([key, *held]))
        numbers = [x for x in left if isinstance(x, int)]
        numbers += [x for text in left if isinstance(text, str) for x in written_in(text)]
        if any((tracer.knows_id(x) or x in asked) and x not in inputs.users for x in numbers):
            raise CaptureError(
                f"the program leaves the id of a tensor in {name!r}: at each run of a graph it would be another one, "
                "and nothing would be found by it. Use a key of your own"
            )
