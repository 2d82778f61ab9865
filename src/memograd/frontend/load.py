"""What runs a graph of a wrapped model, on each backend: a function of the list of its inputs, which it may empty.

``native`` is one compiled C function, for what is small, and ``convolutions`` the graph's own text, as ``eager``, with
convolutions by the fastest algorithm. ``auto`` begins as ``eager`` does; where the graph is small it is compiled once
it has run so often that this may pay, and from then on the faster one runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter
from typing import Any

import torch

from memograd import clock
from memograd._torch import is_batched, modes_of_others
from memograd.cautions import caution
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.printing import boxed_function, load
from memograd.graph.views import owner, tensors_of
from memograd.looks import look
from memograd.ops import has_effect, is_random
from memograd.run.convolutions.fastest import Fastest
from memograd.run.inductor import compiled
from memograd.run.max_pool import compiled_pooling
from memograd.run.nearest import compiled_nearest
from memograd.run.pool.places import Reused

Tensor = torch.Tensor
Function = Callable[[list[Any]], tuple[Tensor, ...]]
Build = Callable[[Graph], Callable[..., Any]]

_CALLS = 1000  # until a graph is compiled: that takes some tenths of a second, and saves some hundredths of a ms
_ELEMENTS = 100_000  # of all values together: beyond, the time between operators is nothing
_TRIALS, _REPEATS = 7, 5
_MARGIN = 0.9  # of the text's time: what is not faster than that is noise
_LARGE = 1 << 20  # bytes of values: fewer malloc keeps itself
_ROUNDINGS = 1000  # of the largest number: another order of sums, and no fault


def loaded(graph: Graph, backend: str) -> Function:
    """A lowered ``graph`` on ``backend``.

    Raises:
        BackendError: the native backend cannot run it.
    """
    if backend == "native":
        return _native(graph)
    if backend == "auto" and _small(graph):
        return _Trial(graph, _text(graph))
    function = _text(graph)
    if backend == "inductor":
        function = _or_operators(_or_in_batches(_spread(compiled(graph)), function), function)
    else:
        rewritten = (
            Fastest().rewritten(graph) if backend == "convolutions" else compiled_nearest(compiled_pooling(graph))
        )
        if rewritten is not graph:
            function = _or_operators(_or_in_batches(_text(rewritten), function), function)
    return _in_reused_memory(function) if _bytes(graph) >= _LARGE else function


def build_of(backend: str) -> Build:
    """What makes a function of a graph that is computed once more, from its inputs: seldom, so not on ``native``."""
    return compiled if backend == "inductor" else attrgetter("function")


def refuse_shared_memory(results: Sequence[torch.fx.Node]) -> str | None:
    """Why results like these cannot come from a backend that writes each to memory of its own; None where they can.
    Who writes to one of two results that share memory changes both."""
    memory = [owner(n) for n in results]
    for k, at in enumerate(memory):
        if at.op == "placeholder":
            return f"result {k} of the model is a view of what it was given"
        if memory.index(at) < k:
            return f"results {memory.index(at)} and {k} of the model share memory"
    return None


def _in_reused_memory(function: Function) -> Function:
    memory = Reused()

    def call(given: list[Any]) -> tuple[Tensor, ...]:
        with memory:
            return function(given)

    return call


def _bytes(graph: Graph) -> int:
    """Of all values that it computes on the CPU."""
    values = [t for n in graph.nodes for t in tensors_of(n) if t.device.type == "cpu"]
    return sum(t.numel() * t.element_size() for t in values)


def _spread(function: Callable[..., Any]) -> Function:
    return lambda given: function(*given)


def _text(graph: Graph) -> Function:
    return load(boxed_function("step", list(graph.placeholders), graph.nodes, list(graph.results)), "step")


def _native(graph: Graph) -> Function:
    from memograd.run import native  # enters its operators, which who plans has no use for

    if any(n.target is look for n in graph.nodes):
        reason = "the model decides by values, which native cannot compare before it goes on"
        caution(f"running on the eager backend: {reason}")
        return _text(graph)
    text = _text(graph)
    return _or_operators(_or_in_batches(native.compile(graph).fresh, text), text)


def _or_operators(function: Function, text: Function) -> Function:
    """``function``, and ``text`` while a mode of the user's is on, which sees operators only where they are called."""

    def call(given: list[Any]) -> tuple[Tensor, ...]:
        return text(given) if modes_of_others() else function(given)

    return call


def _or_in_batches(function: Function, text: Function) -> Function:
    """``function``, and ``text`` for a batch of ``vmap``, which has no memory to point at."""

    def call(given: list[Any]) -> tuple[Tensor, ...]:
        try:
            return function(given)
        except RuntimeError:
            if any(map(is_batched, given)):
                return text(given)
            raise

    return call


def _small(graph: Graph) -> bool:
    values = [t for n in (*graph.placeholders, *graph.nodes) for t in tensors_of(n)]
    if sum(t.numel() for t in values) > _ELEMENTS or any(t.device.type != "cpu" for t in values):
        return False
    return not any(is_random(n) or has_effect(n) or n.target is look for n in graph.nodes)


class _Trial:
    """The text of a graph, until it is known whether the native backend is faster."""

    def __init__(self, graph: Graph, text: Function) -> None:
        self._graph: Graph | None = graph
        self._function = self._text = text
        self._calls = 0
        self._turn = threading.Lock()

    def __call__(self, given: list[Any]) -> tuple[Tensor, ...]:
        if self._graph is not None:
            self._calls += 1
            if self._calls >= _CALLS and not any(map(is_batched, given)) and self._turn.acquire(blocking=False):
                try:
                    self._try(given)
                finally:
                    self._turn.release()
        return self._function(given)

    def _try(self, given: list[Any]) -> None:
        graph, self._graph = self._graph, None
        if graph is None or torch.are_deterministic_algorithms_enabled():  # another order of sums is none of these
            return
        try:
            native = _native(graph)
        except BackendError:
            return
        if not all(map(_agree, self._text([*given]), native([*given]))):
            return
        best = {self._text: inf, native: inf}
        for _ in range(_TRIALS):
            for function in best:
                best[function] = min(best[function], clock.seconds(lambda f=function: f([*given]), _REPEATS))
        if best[native] < _MARGIN * best[self._text]:
            self._function = native


def _agree(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    most = one.abs().max() if one.numel() else one.new_zeros(())
    far = (one - other).abs() > _ROUNDINGS * torch.finfo(one.dtype).eps * most
    return bool(torch.isfinite(most)) and not bool(far.any())
