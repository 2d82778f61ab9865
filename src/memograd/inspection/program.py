"""The program under inspection: its graph, and which of its nodes depend on which parameters.

Two sorts of dependence are told apart. A loss may *depend* on a parameter, so that it is another number when the
parameter is; and an adjoint may *flow* back to it. Where the first holds and the second does not, a gradient was
stopped on the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

from memograd import ops
from memograd.adjoint.activity import active_nodes, is_smooth, operands
from memograd.findings import Severity
from memograd.graph.graph import Graph
from memograd.inspection.objective import PREFIX, Loss
from memograd.inspection.report import Finding
from memograd.looks import look
from memograd.rules.registry import lookup
from memograd.tracing.functions import RESULTS, Call

# Entries of the derivative table without a derivative that does depend on the operand's value: the others only ask for
# its shape, or draw numbers.
_STEPS = frozenset({"ceil", "floor", "round", "sign", "trunc"})
_DRAWN = frozenset({"bernoulli", "poisson", "normal"})
_ANEW = ("_like", "new_", "empty", "zeros", "ones", "full", "rand")


@dataclass(frozen=True)
class Inspected:
    """A captured program.

    Attributes:
        program: what was captured: a ``Loss``, or a function.
        graph: its forward pass; the first result is the loss.
        wrt: names of the inputs that are differentiated.
    """

    program: Callable[..., Any]
    graph: Graph
    wrt: tuple[str, ...]

    def named(self, name: str) -> str:
        """``name`` of a parameter or a module as the user knows it."""
        if not isinstance(self.program, Loss):
            return name
        return name.removeprefix(PREFIX) if name != PREFIX[:-1] else ""

    def finding(
        self, severity: Severity, kind: str, node: fx.Node, what: str, advice: str = "", names: Sequence[str] = ()
    ) -> Finding:
        """One about an operator."""
        meta = node.meta
        module, source = self.named(meta.get("module") or ""), meta.get("source") or ""
        return Finding(severity, kind, what, advice, module, source, meta.get("line") or "", tuple(names))

    @property
    def loss(self) -> fx.Node:
        return self.graph.results[0]

    def names(self, bits: int) -> tuple[str, ...]:
        """The inputs that are differentiated and whose bit is set."""
        return tuple(self.named(name) for k, name in enumerate(self.wrt) if bits >> k & 1)

    @cached_property
    def _sources(self) -> dict[fx.Node, int]:
        return {self.graph.placeholder(name): 1 << k for k, name in enumerate(self.wrt)}

    @cached_property
    def flows(self) -> dict[fx.Node, int]:
        """Of each node, the inputs to which an adjoint of it flows that is not zero everywhere, as bits."""
        return self._flows(("constant", "zero"))

    @cached_property
    def carries(self) -> dict[fx.Node, int]:
        """The same with adjoints that are zero everywhere."""
        return self._flows(("constant",))

    def _flows(self, stopping: tuple[str, ...]) -> dict[fx.Node, int]:
        flows = dict(self._sources)
        for node in self.graph.nodes:
            entry = lookup(node.target)
            passes = is_smooth(node) and not (entry is not None and entry.kind in stopping)
            flows[node] = all_of(flows, operands(node)) if passes else 0
        return flows

    @cached_property
    def depends(self) -> dict[fx.Node, int]:
        """Of each node, the inputs on whose numbers it depends, as bits."""
        depends = dict(self._sources)
        for node in self.graph.nodes:
            depends[node] = all_of(depends, read(node))
        return depends

    @cached_property
    def active(self) -> set[fx.Node]:
        """The nodes through which an adjoint of the loss comes to an input."""
        return set(active_nodes(list(self._sources), [self.loss]))

    @cached_property
    def is_stopped(self) -> bool:
        """Whether the loss depends on something by a way that no gradient takes."""
        return any(
            n.target in (ops.stop, ops.no_grad, *ops.WRITES) and all_of(self.depends, read(n))
            for n in self.graph.nodes
            if n in self.needed
        )

    @cached_property
    def needed(self) -> set[fx.Node]:
        """The nodes on whose numbers the loss depends."""
        return self._needed(())

    @cached_property
    def open(self) -> set[fx.Node]:
        """The same by a way without a stop."""
        return self._needed((ops.stop, ops.no_grad))

    def _needed(self, without: Sequence[Any]) -> set[fx.Node]:
        needed = {self.loss}
        for node in reversed(self.graph.nodes):
            if node in needed and node.target not in without:
                needed.update(read(node))
        return needed


def all_of(bits: dict[fx.Node, int], nodes: Sequence[fx.Node]) -> int:
    """The bits of ``nodes`` together."""
    total = 0
    for node in nodes:
        total |= bits.get(node, 0)
    return total


def read(node: fx.Node) -> tuple[fx.Node, ...]:
    """The operands on whose numbers the result of ``node`` depends."""
    if node.target is look or _only_asks_for_a_shape(node):
        return ()
    operands: list[fx.Node] = []
    args: Any = node.args
    if isinstance(node.target, Call):  # of what was computed inside the Function nobody else knows
        args = args[:RESULTS]
    fx.map_arg((args, node.kwargs), lambda n: operands.append(n) or n)
    return tuple(operands)


def _only_asks_for_a_shape(node: fx.Node) -> bool:
    entry, name = lookup(node.target), name_of(node)
    if entry is None or entry.kind not in ("constant", "zero"):
        return False
    if entry.kind == "zero":
        return name not in _STEPS and not is_drawn(node)
    return node.target is ops.bernoulli or any(part in name for part in _ANEW)


def is_drawn(node: fx.Node) -> bool:
    """Whether the numbers of ``node`` are drawn from a distribution that its operand states."""
    return (
        name_of(node) in _DRAWN and any(is_smooth(n) for n in node.all_input_nodes) and node.target is not ops.bernoulli
    )


def name_of(node: fx.Node) -> str:
    """The operator's plain name, ``argmax``; for one of several results that of the operator."""
    target: Any = node.target
    if target is operator.getitem:
        source: Any = node.args[0]
        return name_of(source)
    return getattr(getattr(target, "overloadpacket", target), "__name__", str(target))
