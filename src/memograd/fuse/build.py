"""Groups become kernels: one node each, whose operands are the values it reads from memory."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from memograd.fuse.groups import Group
from memograd.graph.bindings import name_of
from memograd.graph.graph import Graph
from memograd.graph.kernels import Kernel
from memograd.graph.printing import describe, expression
from memograd.graph.rewriting import Rewriting
from memograd.ops import has_effect


def build(graph: Graph, kernels: Mapping[Group, Kernel]) -> Graph:
    """``graph`` where each kernel computes the results of its group, and nothing is left that only kernels compute."""
    groups = {result: group for group in kernels for result in group.results}
    needed = _needed(graph, groups)

    def visit(new: Rewriting, node: fx.Node) -> fx.Node:
        return _call(new, node, groups[node], kernels[groups[node]]) if node in groups else new.copy(node)

    return graph.rewritten(visit, [*graph.placeholders, *(n for n in graph.nodes if n in needed)]).verify()


def _needed(graph: Graph, groups: Mapping[fx.Node, Group]) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    stack = [*graph.results, *filter(has_effect, graph.nodes)]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += groups[node].operands if node in groups else node.all_input_nodes
    return needed


def _call(new: Rewriting, node: fx.Node, group: Group, kernel: Kernel) -> fx.Node:
    """What stands for ``node``, a result of ``group``: the kernel's node is made, and one for each result."""
    meta = group.results[0].meta
    call = new.fx.call_function(kernel, tuple(new.where[n] for n in group.operands))
    values = []
    for k, (result, part) in enumerate(_stored(group)):
        value = result.meta["val"]
        values.append(value if part is None else value[part])
        stored = new.fx.call_function(operator.getitem, (call, k))
        stored.meta = {**result.meta, "val": values[-1]}
        if part is None:
            new.where[result] = stored
            continue
        new.where[result] = call  # whose parts are read one by one
        for user in result.users:
            if user.target is operator.getitem and user.args[1] == part:
                new.where[user] = stored
    call.meta = {**meta, "val": tuple(values)}
    return new.where[node]


def _stored(group: Group) -> Iterator[tuple[fx.Node, int | None]]:
    """What a kernel returns: its group's results; of an operator with several results each one that there is."""
    for result in group.results:
        value = result.meta["val"]
        if isinstance(value, torch.Tensor):
            yield result, None
        else:
            yield from ((result, k) for k, part in enumerate(value) if isinstance(part, torch.Tensor))


def kernel_of(group: Group) -> Kernel:
    """The kernel of a group: its operators as a function."""
    names: dict[fx.Node, str] = {n: f"x{k}" for k, n in enumerate(group.operands)}
    parameters = ", ".join(f'{name}: "{_form(n.meta["val"])}"' for n, name in names.items())
    uses: Counter[str] = Counter()
    lines = [f"({parameters}):"]
    for node in group.inside:
        stem = "part" if node.target is operator.getitem else name_of(node.target).strip("_")
        uses[stem] += 1
        names[node] = f"{stem}_{uses[stem]}"
        lines.append(f"    {names[node]} = {expression(node, names.__getitem__)}")
    results = [names[n] if part is None else f"{names[n]}[{part}]" for n, part in _stored(group)]
    lines.append(f"    return ({''.join(f'{r}, ' for r in results)})".replace(", )", ",)"))
    computed = dict.fromkeys(name_of(n.target).strip("_") for n in group.computed)
    return Kernel("\n".join(lines) + "\n", "_".join(computed))


def _form(value: Any) -> str:
    """Everything a compiled kernel takes for granted about an operand."""
    text = describe(value)
    if not value.is_contiguous():
        text += f" strides {list(value.stride())}"
    return text if value.device.type == "cpu" else f"{text} on {value.device}"
