"""A graph run operator by operator, by who wants to see every value and not only the results.

for ran in interpret(graph.nodes, values):
    print(ran.node, ran.value)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from memograd.graph.graph import Graph

Call = Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Ran:
    """An operator that has just run."""

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any


def called(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator itself."""
    target: Any = node.target
    return target(*args, **kwargs)


def interpret(
    nodes: Iterable[fx.Node],
    values: dict[fx.Node, Any],
    call: Call = called,
    behind: Callable[[fx.Node], fx.Node] | None = None,
) -> Iterator[Ran]:
    """Run ``nodes`` in this order, each when it is asked for; their values are entered in ``values``, where those of
    the inputs stand. The next operators read what stands there then, also where it has been replaced.

    Args:
        call: what runs an operator.
        behind: the node whose value is read in the place of another's.
    """
    read = values.__getitem__ if behind is None else lambda n: values[behind(n)]
    for node in nodes:
        args: Any = fx.map_arg(node.args, read)
        kwargs: Any = fx.map_arg(node.kwargs, read)
        value = values[node] = call(node, args, kwargs)
        yield Ran(node, args, kwargs, value)


def evaluate(graph: Graph, flat: Sequence[Any], call: Call = called) -> dict[fx.Node, Any]:
    """The value of every node of ``graph`` for these flat inputs."""
    values = dict(zip(graph.placeholders, flat, strict=True))
    for _ in interpret(graph.nodes, values, call):
        pass
    return values
