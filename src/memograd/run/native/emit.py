"""A graph as one C function.

Each operator appends a statement (a loop nest) that writes one buffer, or none at all: views and formulas wait until
somebody needs them stored. ``source.py`` makes one text of the statements.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.reach import ancestors
from memograd.ops import has_effect
from memograd.run.native.precision import refused
from memograd.run.native.source import Source, Statement, source_of
from memograd.run.native.values import (
    C_TYPES,
    Body,
    Buffer,
    Const,
    Lazy,
    Value,
    View,
    contiguous_strides,
    loops,
)

Kernel = Callable[..., Any]
KERNELS: dict[Any, Kernel] = {}
WORKSPACES: dict[Any, tuple[int, Any]] = {}  # operators with a result that only another of ours reads, in its own form

MATMUL_LIMIT = 1 << 24  # multiply-adds from which BLAS is the better choice
LAZY_LIMIT = 48  # operators in one fused formula
STATEMENT_LIMIT = 3_000  # loops in one C function; compilers take more than seconds beyond
WIDE = 16  # elements of a loop that is worth vectors


def kernel(*targets: Any) -> Callable[[Kernel], Kernel]:
    """Enter an emitter: ``emit(builder, node, *args, **kwargs)`` with values in place of nodes."""

    def enter(function: Kernel) -> Kernel:
        for target in targets:
            KERNELS[target] = function
        return function

    return enter


class Builder:
    """Collects statements while the graph is walked once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.statements: list[Statement] = []
        self.values: dict[fx.Node, Any] = {}
        self.stored: dict[Value, View] = {}
        self.work = 0
        self.indexed: list[str] = []
        self.helpers: dict[str, str] = {}  # C functions that statements call, by name
        self._temporaries = 0
        self._homes: dict[fx.Node, Buffer] = {}
        for number, node in enumerate(graph.placeholders):
            self.values[node] = _whole(_buffer("in", number, node), tuple(node.meta["val"].shape))
        for number, node in enumerate(graph.results):
            if node.op != "placeholder":
                self._homes.setdefault(node, _buffer("out", number, node))

    # ---- values

    def view(self, value: Value) -> View:
        """``value`` in memory, whatever its strides."""
        return value if isinstance(value, View) else self.store(value)

    def dense(self, value: Value) -> View:
        """``value`` in contiguous memory."""
        return value if isinstance(value, View) and value.contiguous else self.store(value)

    def store(self, value: Value, node: fx.Node | None = None) -> View:
        """Write ``value`` out, once."""
        if value not in self.stored:
            target = self.new(value.shape, value.dtype, node)
            self.assign(target, value)
            self.stored[value] = target
        return self.stored[value]

    def new(self, shape: tuple[int, ...], dtype: torch.dtype, node: fx.Node | None = None) -> View:
        """Fresh contiguous memory: the program's output if ``node`` is a result, else a temporary."""
        buffer = self._homes.pop(node, None) if node is not None else None
        if buffer is None or buffer.dtype != dtype or buffer.numel != math.prod(shape):
            buffer = Buffer("tmp", self._temporaries, math.prod(shape), dtype)
            self._temporaries += 1
        return View(tuple(shape), dtype, buffer, 0, contiguous_strides(shape))

    def result(self, node: fx.Node) -> View:
        """Memory for the value of ``node``."""
        value = node.meta["val"]
        return self.new(tuple(value.shape), value.dtype, node)

    def lazy(self, shape: Any, dtype: torch.dtype, compute: torch.dtype | None, write: Any, *operands: Value) -> Lazy:
        """A formula; operands that would be computed again and again by broadcasting, or too long, are stored."""
        numel, room, inputs = math.prod(shape), LAZY_LIMIT, []
        for operand in operands:
            size = getattr(operand, "size", 1)
            if not isinstance(operand, (View, Const)) and (operand.numel not in (1, numel) or size > room):
                operand, size = self.store(operand), 1
            room -= size
            inputs.append(operand)
        return Lazy(tuple(shape), dtype, tuple(inputs), write, compute)

    # ---- statements

    def assign(self, target: View, value: Value) -> None:
        """``target[...] = value`` element by element."""
        body = Body(ahead=True)
        if target.contiguous and value.runs_over(target.shape):
            text = value.at(body, "i")
            simd = ["#pragma omp simd"] if target.numel >= WIDE else []  # results never lie where operands do
            lines = [*body.lines, f"{target.ref('i')} = {text};"]
            self.add([*body.head, *simd, *loops([target.numel], ["i"], lines)], body.reads, target)
            return
        index = tuple(f"i{d}" for d in range(len(target.shape)))
        text = value.at(body, index)
        lines = loops(target.shape, index, [*body.lines, f"{target.ref(index)} = {text};"])
        self.add([*body.head, *lines], body.reads, target)

    def add(self, lines: list[str], reads: set[Buffer], *targets: View, work: int = 0) -> None:
        self.work += work or sum(t.numel for t in targets)
        self.statements.append(Statement(lines, frozenset(reads), frozenset(t.buffer for t in targets)))

    # ---- the walk

    def run(self) -> Source:
        needed = _needed(self.graph)
        for node in self.graph.nodes:
            if node in needed:
                self.values[node] = self.settle(node, self.emit(node))
        for number, node in enumerate(self.graph.results):
            value = self.values[node]
            home = _whole(_buffer("out", number, node), value.shape)
            if not (isinstance(value, View) and value.buffer.name == home.buffer.name):
                self.assign(home, value)
        if len(self.statements) > STATEMENT_LIMIT:
            raise BackendError(
                f"the graph needs {len(self.statements)} loops, the native backend stops at {STATEMENT_LIMIT}"
            )
        flags = [C_TYPES[self.graph.results[k].meta["val"].dtype] for k in self.graph.positions("flag")]
        flag = flags[0] if flags else "float"
        return source_of(self.statements, flag, [*self.helpers.values()], self.work, tuple(self.indexed))

    def emit(self, node: fx.Node) -> Any:
        operands: Any = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
        args, kwargs = operands
        if node.target is operator.getitem:
            return args[0][args[1]]
        return KERNELS[node.target](self, node, *args, **kwargs)

    def settle(self, node: fx.Node, value: Any) -> Any:
        """Store a formula which several others need, or which is a result."""
        if isinstance(value, (View, Const)) or not isinstance(value, Value):
            return value
        return self.store(value, node) if len(node.users) > 1 or node in self._homes else value


def emit(graph: Graph) -> Source:
    """The C source of a graph.

    Raises:
        BackendError: an operator, dtype or device is not supported.
    """
    if (why := unsupported(graph)) is not None:
        raise BackendError(why)
    return Builder(graph).run()


def unsupported(graph: Graph) -> str | None:
    """Why no C can be written for ``graph``, by a look at its operators alone."""
    needed = _needed(graph)
    for node in graph.fx.nodes:
        if node.op == "output" or (node.op == "call_function" and node not in needed):
            continue
        if node.op == "call_function" and node.target is not operator.getitem and node.target not in KERNELS:
            return f"the native backend has no kernel for {node.target}"
        if node.op == "call_function" and (why := refused(node)) is not None:
            return why
        if node in needed and _handed_on(node, graph):
            continue
        values = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
        for value in values:
            if not isinstance(value, torch.Tensor):
                continue
            if value.layout is not torch.strided:
                return f"the native backend reads memory by strides; {node.name} ({node.target}) is {value.layout}"
            if value.device.type != "cpu":
                return f"the native backend runs on the CPU; {node.name} ({node.target}) is on {value.device}"
            if value.dtype not in C_TYPES:
                return f"the native backend does not know {value.dtype}, the dtype of {node.name} ({node.target})"
    return None


def _handed_on(node: fx.Node, graph: Graph) -> bool:
    """Whether ``node`` is a workspace of PyTorch's, which only kernels of ours read, or the operator that has one."""
    if node.target in WORKSPACES:
        return True
    source: Any = node.args[0] if node.target is operator.getitem else None
    if source is None or source.target not in WORKSPACES or node in graph.results:
        return False
    index, reader = WORKSPACES[source.target]
    return bool(node.args[1] == index) and all(user.target is reader for user in node.users)


def _needed(graph: Graph) -> set[fx.Node]:
    return ancestors([*graph.results, *filter(has_effect, graph.nodes)])


def _buffer(kind: str, number: int, node: fx.Node) -> Buffer:
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        raise BackendError(f"the native backend needs tensors as inputs and results; {node.name} is {value!r}")
    return Buffer(kind, number, value.numel(), value.dtype)


def _whole(buffer: Buffer, shape: tuple[int, ...]) -> View:
    return View(shape, buffer.dtype, buffer, 0, contiguous_strides(shape))
