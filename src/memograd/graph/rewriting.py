"""A graph written anew: the one loop behind every pass that replaces, drops, adds or reorders operators.

A pass says what stands for each operator, and nothing else::

    def without_copies(new, node):
        return new.where[node.args[0]] if node.target is aten.clone.default else new.copy(node)

    graph.rewritten(without_copies)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from memograd.ops import has_effect


class Rewriting:
    """A graph that is being written from another one.

    Attributes:
        fx: the operators so far.
        where: what stands there for a node of the other graph. For an operator with several results it may be the list
            of them, from which its readers are given the one they pick.
    """

    def __init__(self) -> None:
        self.fx = fx.Graph()
        self.where: dict[fx.Node, Any] = {}

    def copy(self, node: fx.Node) -> fx.Node:
        """``node`` with its metadata, on what stands for its operands."""
        if node.op == "placeholder":
            return self.fx.node_copy(node)
        # fx looks through the operands that a node is made with for sizes without a value, and there are none here;
        # those that it is given afterwards it takes as they are, in a third less time.
        copy = self.fx.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        copy.args = fx.map_arg(node.args, self.where.__getitem__)
        if node.kwargs:
            copy.kwargs = fx.map_arg(node.kwargs, self.where.__getitem__)
        copy.meta.update(node.meta)  # whose place is taken is looked up anew at each assignment
        return copy

    def write(self, nodes: Iterable[fx.Node], visit: Visit | None = None) -> None:
        """What ``visit`` makes of each of ``nodes``, which follow their operands; by default a copy. A node that is in
        ``where`` already, because it was entered there with another one, is passed over."""
        visit = visit or Rewriting.copy
        for node in nodes:
            if node.op == "output" or node in self.where:
                continue
            picked: Any = node.args if node.target is operator.getitem else (None, None)
            several = self.where.get(picked[0])
            self.where[node] = several[picked[1]] if isinstance(several, list) else visit(self, node)


Visit = Callable[[Rewriting, fx.Node], Any]


def drop_unread(written: fx.Graph) -> None:
    """Drop the operators that nobody reads; random ones stay, or every draw after them would be another."""
    for node in reversed(written.nodes):
        if node.op == "call_function" and not node.users and not has_effect(node):
            written.erase_node(node)
