"""From a graph to the planner's problem: which operators allocate which storages, and who reads them.

Bytes belong to storages, not to tensors: a view costs nothing and keeps its base alive, an operator with several
results allocates all of them together. A view is not an operator of the problem; it is made again wherever it is read.
What the step writes back (parameters, optimizer state, statistics) becomes an operator of its own, which must come
after everyone who reads the old value.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd.draws import rng_state
from memograd.graph.graph import Graph
from memograd.graph.views import copies_storage, tensors_of, viewed
from memograd.looks import look
from memograd.memory.costs.cuda import kept_by_libraries
from memograd.memory.costs.early import early
from memograd.memory.costs.tensors import bytes_of, device_of, input_bytes
from memograd.memory.problem import Problem
from memograd.ops import is_random, may_raise, receive

_WORTH = 4  # times the size of the generator's state: smaller random numbers are kept


@dataclass(frozen=True)
class Operator:
    """One operator of the problem: a node that allocates; or the copy of ``node``'s value into the input ``into``; or
    the saving of the generator's state before ``node`` draws from it."""

    node: fx.Node
    into: fx.Node | None = None
    saves: bool = False

    @property
    def name(self) -> str:
        if self.saves:
            return f"state before {self.node.name}"
        return self.node.name if self.into is None else f"write {self.into.name}"

    @property
    def phase(self) -> str:
        """``forward``, ``backward``, ``update`` or ``write``."""
        if self.into is not None:
            return "write"
        if "update_of" in self.node.meta:
            return "update"
        return "backward" if "adjoint_of" in self.node.meta else "forward"


@dataclass(frozen=True)
class Storages:
    """A graph seen as storages.

    Attributes:
        graph: without marks (lowered).
        operators: those that allocate, and the writes, in the order of the graph; but each parameter's update comes as
            soon as it can, so that gradients do not pile up, and running statistics are written last.
        owner: node -> the value (number of a storage) that it is or looks at; None for what the inputs own.
        values: value -> the node that is it: the operator's own, or a ``getitem`` (None when nobody picks it).
        outputs, reads: values of each operator.
        sizes: bytes of each value.
        reads_input: placeholder -> the operators that read its memory.
        unplanned: the operators as the unplanned step runs them: all writes at the end.
    """

    graph: Graph
    operators: tuple[Operator, ...]
    owner: dict[fx.Node, int | None]
    outputs: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    reads_input: dict[fx.Node, tuple[int, ...]]
    unplanned: tuple[int, ...]

    @cached_property
    def index(self) -> dict[fx.Node, int]:
        """The number of the operator that a node is."""
        return {o.node: k for k, o in enumerate(self.operators) if o.into is None and not o.saves}

    @cached_property
    def states(self) -> dict[int, int]:
        """Operators that draw and can draw the same again: from which value, a state of the generator."""
        return {self.index[o.node]: self.outputs[k][0] for k, o in enumerate(self.operators) if o.saves}

    @cached_property
    def resident(self) -> int:
        """Bytes of the inputs: parameters, buffers, optimizer state, the batch; tied ones count once. Also what lives
        beside the graph and, on CUDA, what libraries keep."""
        owned: dict[Any, int] = {}
        sizes = input_bytes(self.graph)
        for node, entry in zip(self.graph.placeholders, self.graph.inputs, strict=True):
            owned[entry.tensor.untyped_storage().data_ptr() if entry.tensor is not None else node] = sizes[node]
        return sum(owned.values()) + self.graph.beside + kept_by_libraries(self.graph)

    @cached_property
    def returned(self) -> frozenset[int]:
        """Values that the step returns."""
        pairs = zip(self.graph.results, self.graph.outputs, strict=True)
        values = {self.owner[n] for n, o in pairs if o.kind != "mutation"}
        return frozenset(v for v in values if v is not None)

    @cached_property
    def once(self) -> frozenset[int]:
        """Writes, states of generators, draws that no state was saved for, and what comes from outside."""
        once = (k for k, o in enumerate(self.operators) if o.into is not None or is_random(o.node))
        received = (k for k, o in enumerate(self.operators) if o.node.target is receive)
        return frozenset({*once, *received} - self.states.keys())

    @cached_property
    def before(self) -> tuple[tuple[int, int], ...]:
        """A write comes after everyone who reads the old value."""
        writes = [(k, o.into) for k, o in enumerate(self.operators) if o.into is not None]
        return tuple((u, k) for k, into in writes for u in self.reads_input.get(into, ()) if u != k)

    def problem(
        self, seconds: Sequence[float], workspace: Sequence[int], results: Sequence[tuple[int, ...]] | None = None
    ) -> Problem:
        """The planner's problem.

        Args:
            seconds, workspace: of each operator, measured or modelled.
            results: measured bytes of each operator's results, where they are known better than from their shapes.
        """
        sizes = list(self.sizes)
        for values, measured in zip(self.outputs, results or (), strict=False):
            for value, size in zip(values, measured, strict=False):  # a token behind them was not measured
                sizes[value] = size
        space = list(workspace)
        for k, state in self.states.items():  # the generator's present state waits, and setting one copies it
            space[k] = max(2 * sizes[state], sizes[state] + workspace[k])
        return Problem(
            cost=tuple(seconds),
            outputs=self.outputs,
            reads=self.reads,
            size=tuple(sizes),
            workspace=tuple(space),
            keep=self.returned,
            once=self.once,
            before=self.before,
            resident=self.resident,
            replays=tuple((k, state, workspace[k]) for k, state in self.states.items()),
        )


def storages(graph: Graph) -> Storages:
    """Read the storages off a lowered graph.

    Raises:
        GraphError: two inputs are to be swapped in place, which no order of writes can do.
    """
    build = _Build(input_bytes(graph))
    for node in graph.placeholders:
        build.owner[node], build.origin[node] = None, node
    for node in graph.nodes:
        build.node(node)
    for node, output in zip(graph.results, graph.outputs, strict=True):
        if output.kind == "mutation":
            build.write(node, graph.placeholder(output.name))
    order = build.order()
    place = {old: new for new, old in enumerate(order)}
    return Storages(
        graph,
        tuple(build.operators[k] for k in order),
        build.owner,
        tuple(build.outputs[k] for k in order),
        tuple(build.reads[k] for k in order),
        tuple(build.sizes),
        {p: tuple(dict.fromkeys(place[k] for k in r)) for p, r in build.reads_input.items()},
        tuple(place[k] for k in range(len(order))),
    )


class _Build:
    """Walks the graph once."""

    def __init__(self, inputs: dict[fx.Node, int]) -> None:
        self.inputs = inputs  # bytes of each
        self.operators: list[Operator] = []
        self.outputs: list[tuple[int, ...]] = []
        self.reads: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.owner: dict[fx.Node, int | None] = {}
        self.origin: dict[fx.Node, fx.Node] = {}  # of nodes that look at an input: which one
        self.parts: dict[fx.Node, list[int | None]] = {}  # values of a node with several results
        self.reads_input: dict[fx.Node, list[int]] = {}
        self.draws: list[int] = []  # operators
        self.looks: list[int] = []  # values of operators that may end the run: writes come after them
        self.shapes: dict[int, int] = {}  # values whose shape values decide: what the look at it returns, to be awaited

    def node(self, node: fx.Node) -> None:
        base = viewed(node)
        if node.target is operator.getitem and base in self.parts:
            self.owner[node] = self.parts[base][node.args[1]]  # pyright: ignore[reportArgumentType, reportCallIssue]
        elif base is not None:
            self.owner[node] = self.owner[base]
            if base in self.origin:
                self.origin[node] = self.origin[base]
        else:
            self._operator(node)

    def write(self, node: fx.Node, into: fx.Node) -> None:
        self._append(Operator(node, into), [node], (), tuple(self.looks))

    def _operator(self, node: fx.Node) -> None:
        value = node.meta["val"]
        if copies_storage(node):
            parts: list[int | None] = [self._sized(self._storage_bytes(node.args[0]))]  # pyright: ignore[reportArgumentType]
        else:
            parts = [self._value(v) for v in (value if isinstance(value, (tuple, list)) else [value])]
        if isinstance(value, (tuple, list)):
            self.parts[node] = parts
        self.owner[node] = parts[0] if len(parts) == 1 else None
        behind = self._draw(node) if is_random(node) else ()
        if may_raise(node) and value is None:
            parts = [self._sized(0)]  # nothing, to be awaited
        self._append(Operator(node), node.all_input_nodes, tuple(p for p in parts if p is not None), behind)
        if may_raise(node):
            self.looks += self.outputs[-1]
        if node.target is look and node.args[2] == "shape":
            looked = self.owner[node.args[0]]  # pyright: ignore[reportArgumentType]
            if looked is not None:
                self.shapes[looked] = self.outputs[-1][0]

    def _draw(self, node: fx.Node) -> tuple[int, ...]:
        """What a draw reads besides its inputs: random operators draw in the program's order, so each produces a token
        of no size for the next one. What is larger than the generator's state may be drawn again from that."""
        token: tuple[int, ...] = ()
        if self.draws:
            token = (self._sized(0),)
            self.outputs[self.draws[-1]] += token
        device = device_of(node)
        needed = rng_state(device).nbytes if device is not None else 0
        if device is not None and _WORTH * needed <= sum(map(bytes_of, tensors_of(node))):
            state = (self._sized(needed),)
            self._append(Operator(node, saves=True), (), state, token)
            token = state
        self.draws.append(len(self.operators))
        return token

    def _value(self, value: Any) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        return self._sized(bytes_of(value))

    def _storage_bytes(self, node: fx.Node) -> int:
        """Bytes of the storage that a node's value lies in."""
        value = self.owner[node]
        return self.sizes[value] if value is not None else self.inputs[self.origin[node]]

    def _sized(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _append(
        self, new: Operator, inputs: Sequence[fx.Node], outputs: tuple[int, ...], behind: tuple[int, ...] = ()
    ) -> None:
        number = len(self.operators)
        self.operators.append(new)
        self.outputs.append(outputs)
        values = [self.owner[n] for n in inputs]
        shapes = [self.shapes[v] for v in values if v in self.shapes]
        self.reads.append(tuple(dict.fromkeys([*(v for v in values if v is not None), *behind, *shapes])))
        for n in inputs:
            if n in self.origin:
                self.reads_input.setdefault(self.origin[n], []).append(number)

    def order(self) -> list[int]:
        """The operators with each update as early as it can come; statistics are written at the end."""
        updates = [self._is_update(o) for o in self.operators]
        producer = {v: k for k, values in enumerate(self.outputs) for v in values}
        needs = [[producer[v] for v in reads] for reads in self.reads]
        for k, o in enumerate(self.operators):
            if o.into is not None:
                needs[k] += [u for u in self.reads_input.get(o.into, ()) if u != k]
        return early(needs, updates)

    def _is_update(self, operator: Operator) -> bool:
        """Whether to write soon. Behind a statistic of the forward pass nobody who reads the old one can run again: it
        waits if it is smaller than what they compute."""
        meta = operator.node.meta
        if operator.into is None or "update_of" in meta or "adjoint_of" in meta:
            return operator.into is not None or "update_of" in meta
        readers = self.reads_input.get(operator.into, ())
        recomputed = sum(self.sizes[v] for k in readers for v in self.outputs[k])
        return bytes_of(operator.node.meta["val"]) >= recomputed
