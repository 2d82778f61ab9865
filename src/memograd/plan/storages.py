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
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from memograd.graph import Graph
from memograd.ops import is_random
from memograd.plan.early import early
from memograd.plan.problem import Problem

_CUDA_BLOCK = 512  # PyTorch's CUDA allocator rounds every request up to this many bytes


# Views whose schema does not say so: PyTorch trusts that nobody writes into them.
_SILENT_VIEWS = (
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.unsafe_split.Tensor,
    torch.ops.aten.unsafe_split_with_sizes.default,
    torch.ops.aten.unsafe_chunk.default,
)


@dataclass(frozen=True)
class Operator:
    """One operator of the problem: a node that allocates, or the copy of ``node``'s value into the input ``into``."""

    node: fx.Node
    into: fx.Node | None = None

    @property
    def name(self) -> str:
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
            soon as it can, so that gradients do not pile up.
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
        return {o.node: k for k, o in enumerate(self.operators) if o.into is None}

    @cached_property
    def resident(self) -> int:
        """Bytes of the inputs: parameters, buffers, optimizer state, the batch. Tied ones count once."""
        owned: dict[Any, int] = {}
        for node, entry in zip(self.graph.placeholders, self.graph.inputs, strict=True):
            tensor = entry.tensor if entry.tensor is not None else node.meta["val"]
            key = tensor.untyped_storage().data_ptr() if entry.tensor is not None else node
            whole = tensor.untyped_storage().nbytes() if entry.tensor is not None else 0
            owned[key] = max(bytes_of(tensor), whole)
        return sum(owned.values())

    @cached_property
    def kept(self) -> frozenset[int]:
        """Values that the step returns."""
        found = zip(self.graph.results, self.graph.outputs, strict=True)
        values = {self.owner[n] for n, o in found if o.kind != "mutation"}
        return frozenset(v for v in values if v is not None)

    @cached_property
    def once(self) -> frozenset[int]:
        """Operators that draw random numbers, and writes."""
        return frozenset(k for k, o in enumerate(self.operators) if o.into is not None or is_random(o.node))

    @cached_property
    def before(self) -> tuple[tuple[int, int], ...]:
        """Random operators draw in the program's order; a write comes after everyone who reads the old value."""
        draws = [k for k in sorted(self.once) if self.operators[k].into is None]
        pairs = list(pairwise(draws))
        for k, o in enumerate(self.operators):
            if o.into is not None:
                pairs += [(u, k) for u in self.reads_input.get(o.into, ()) if u != k]
        return tuple(pairs)

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
            for value, size in zip(values, measured, strict=True):
                sizes[value] = size
        return Problem(
            cost=tuple(seconds),
            outputs=self.outputs,
            reads=self.reads,
            size=tuple(sizes),
            workspace=tuple(workspace),
            keep=self.kept,
            once=self.once,
            before=self.before,
            resident=self.resident,
        )


def storages(graph: Graph) -> Storages:
    """Read the storages off a lowered graph.

    Raises:
        GraphError: two inputs are to be swapped in place, which no order of writes can do.
    """
    build = _Build()
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

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self.outputs: list[tuple[int, ...]] = []
        self.reads: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.owner: dict[fx.Node, int | None] = {}
        self.origin: dict[fx.Node, fx.Node] = {}  # of nodes that look at an input: which one
        self.parts: dict[fx.Node, list[int | None]] = {}  # values of a node with several results
        self.reads_input: dict[fx.Node, list[int]] = {}

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
        self._append(Operator(node, into), [node], ())

    def _operator(self, node: fx.Node) -> None:
        value = node.meta["val"]
        parts = [self._value(v) for v in (value if isinstance(value, (tuple, list)) else [value])]
        if isinstance(value, (tuple, list)):
            self.parts[node] = parts
        self.owner[node] = parts[0] if len(parts) == 1 else None
        self._append(Operator(node), node.all_input_nodes, tuple(p for p in parts if p is not None))

    def _value(self, value: Any) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        self.sizes.append(bytes_of(value))
        return len(self.sizes) - 1

    def _append(self, new: Operator, inputs: Sequence[fx.Node], outputs: tuple[int, ...]) -> None:
        number = len(self.operators)
        self.operators.append(new)
        self.outputs.append(outputs)
        values = [self.owner[n] for n in inputs]
        self.reads.append(tuple(dict.fromkeys(v for v in values if v is not None)))
        for n in inputs:
            if n in self.origin:
                self.reads_input.setdefault(self.origin[n], []).append(number)

    def order(self) -> list[int]:
        """The operators with each update as early as it can come."""
        updates = [o.into is not None or "update_of" in o.node.meta for o in self.operators]
        producer = {v: k for k, values in enumerate(self.outputs) for v in values}
        needs = [[producer[v] for v in reads] for reads in self.reads]
        for k, o in enumerate(self.operators):
            if o.into is not None:
                needs[k] += [u for u in self.reads_input.get(o.into, ()) if u != k]
        return early(needs, updates)


def viewed(node: fx.Node) -> fx.Node | None:
    """The node whose memory ``node`` looks at; None when it has memory of its own."""
    if node.target is operator.getitem:
        return node.args[0]  # pyright: ignore[reportReturnType]
    if node.target in _SILENT_VIEWS:
        return node.args[0]  # pyright: ignore[reportReturnType]
    schema = getattr(node.target, "_schema", None)
    if schema is None or not any(r.alias_info is not None for r in schema.returns):
        return None
    for argument, given in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and isinstance(given, fx.Node):
            return given
    return None


def bytes_of(tensor: torch.Tensor) -> int:
    """What the allocator hands out for a new tensor of this form: operators return dense ones."""
    exact = tensor.numel() * tensor.element_size()
    return -(-exact // _CUDA_BLOCK) * _CUDA_BLOCK if tensor.device.type == "cuda" else exact
