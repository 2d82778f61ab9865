"""An input for each use of a value, so that autograd adds up what comes back from them.

Where a pass reads a value twice, its derivative could return the sum of the two gradients; but autograd has others to
add, of passes that ran later, and (later + one) + other is not later + (one + other) to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting

_MOST = 4  # of more uses the gradients would take too much memory before they are added up
Use = tuple[fx.Node, int]
"""(who reads, the how manieth of its operands)"""


def each_use(graph: Graph, apart: Sequence[bool]) -> tuple[Graph, list[int]]:
    """``graph`` with as many inputs as it has uses in place of each that is to be taken ``apart``, the last use first;
    and which input each of them was."""
    new = Rewriting()
    inputs, positions = [], []
    reads: dict[Use, fx.Node] = {}
    for k, node in enumerate(graph.placeholders):
        uses = _uses(node) if k < len(apart) and apart[k] else []
        for at in range(max(len(uses), 1)):
            placeholder = new.fx.placeholder(node.name if at == 0 else f"{node.name}_again_{at}")
            placeholder.meta = dict(node.meta)
            new.where.setdefault(node, placeholder)
            entry = graph.inputs[k]
            inputs.append(entry if at == 0 else replace(entry, name=f"{entry.name} again {at}"))
            positions.append(k)
            if uses:
                reads[uses[at]] = placeholder

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        copy = new.copy(node)
        operands = iter(range(len(_operands(node))))
        copy.args = fx.map_arg(node.args, lambda n: reads.get((node, next(operands))) or new.where[n])
        return copy

    return graph.rewritten(visit, new=new, inputs=tuple(inputs)), positions


def _uses(node: fx.Node) -> list[Use]:
    """Where ``node`` is read, in the order in which gradients come back; none where one input serves."""
    users = list(node.users)
    uses = [(user, at) for user in reversed(users) for at, n in enumerate(_operands(user)) if n is node]
    returned = any(user.op == "output" for user in users)
    return [] if returned or not 1 < len(uses) <= _MOST else uses


def _operands(node: fx.Node) -> list[fx.Node]:
    operands: list[fx.Node] = []
    fx.map_arg(node.args, lambda n: operands.append(n) or n)
    return operands
