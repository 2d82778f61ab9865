"""What of a step's graph can run as one loop over the elements of a parameter.

The update of a parameter is a handful of elementwise operators on the parameter, its gradient and its optimizer state,
and on numbers that all parameters share. A region is these operators of one parameter, as far as a loop of ours
computes what PyTorch does and nobody else reads it, and the results they are there for: new values that are written
where the old ones lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.graph.graph import Graph
from memograd.graph.views import owner
from memograd.ops import has_effect
from memograd.run.native import kernels, pointwise
from memograd.run.native.emit import KERNELS
from memograd.run.native.values import C_TYPES

aten = torch.ops.aten

# Whose result IEEE arithmetic decides to the last bit, so that it is PyTorch's: no powers and no exponentials.
_EXACT = frozenset(
    "add sub rsub mul div neg abs sign sgn maximum minimum eq ne lt le gt ge where logical_and logical_or logical_xor "  # noqa: SIM905
    "logical_not clamp clamp_min clamp_max lerp addcmul addcdiv masked_fill".split()
)
_NUMBER = torch.empty(())
_ALSO = {kernels.identity, kernels.to_copy, kernels.scalar_tensor, kernels.full, kernels.zeros, kernels.ones}


@dataclass(frozen=True)
class Region:
    """One parameter's update.

    Attributes:
        like: a tensor of the shape, strides and dtype of what is written.
        nodes: the operators, in order.
        wholes: what they read that has an element for each of the parameter's; ``numbers``: what has only one.
        results: where they stand among the graph's; ``places``: where what they replace stands among the inputs.
        exports: what other regions read of it.
    """

    name: str
    like: torch.Tensor
    nodes: tuple[fx.Node, ...]
    wholes: tuple[fx.Node, ...]
    numbers: tuple[fx.Node, ...]
    results: tuple[int, ...]
    places: tuple[int, ...]
    exports: tuple[fx.Node, ...] = ()


def regions(graph: Graph) -> list[Region]:
    """Those of a lowered graph."""
    inputs = {entry.name: k for k, entry in enumerate(graph.inputs)}
    written: dict[str, list[int]] = {}
    for at in graph.positions("mutation"):
        label = graph.results[at].meta.get("update_of")
        if label is not None and label in inputs:
            written.setdefault(label, []).append(at)
    members: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        members.setdefault(node.meta.get("update_of", ""), []).append(node)
    candidates = [_region(graph, inputs, name, at, members[name]) for name, at in written.items()]
    return list(_apart(graph, [r for r in candidates if r is not None]))


def _region(graph: Graph, inputs: dict[str, int], name: str, at: list[int], nodes: list[fx.Node]) -> Region | None:
    like = graph.placeholders[inputs[name]].meta["val"]
    if like.device.type != "cpu" or not _dense(like):
        return None
    places = {k: inputs[graph.outputs[k].name] for k in at}
    at = [k for k in at if _lies_alike(graph.placeholders[places[k]].meta["val"], like)]
    results = {graph.results[k] for k in at}
    others = {n for k, n in enumerate(graph.results) if k not in at}
    inside = {n for n in nodes if _elementwise(n, like) and n not in others}
    while drop := {n for n in inside if not _closed(n, inside, results, like)}:
        inside -= drop
    at = [k for k in at if graph.results[k] in inside]
    if not at:
        return None
    read = dict.fromkeys(o for n in nodes if n in inside for o in n.all_input_nodes if o not in inside)
    return Region(
        name,
        like,
        tuple(n for n in nodes if n in inside),
        tuple(n for n in read if n.meta["val"].numel() != 1),
        tuple(n for n in read if n.meta["val"].numel() == 1),
        tuple(at),
        tuple(places[k] for k in at),
    )


def numbers(graph: Graph, of_parameters: Sequence[Region]) -> Region | None:
    """What the updates compute of numbers alone (counters, bias corrections): one call, not one for each operator."""
    inside = {n for n in graph.nodes if "update_of" in n.meta and _elementwise(n, _NUMBER)}
    inside -= {n for r in of_parameters for n in r.nodes}
    taken = inside | {n for r in of_parameters for n in r.nodes}
    inputs = {entry.name: k for k, entry in enumerate(graph.inputs)}
    written: dict[fx.Node, list[int]] = {}
    for at, (node, entry) in enumerate(zip(graph.results, graph.outputs, strict=True)):
        alike = entry.kind == "mutation" and _lies_alike(graph.placeholder(entry.name).meta["val"], _NUMBER)
        if node in inside and not (alike and graph.placeholder(entry.name).meta["val"].dtype == node.meta["val"].dtype):
            inside.discard(node)
        written.setdefault(node, []).append(at)
    while drop := {n for n in inside if not _lonely(n, inside, taken)}:
        inside, taken = inside - drop, taken - drop
    nodes = tuple(n for n in graph.nodes if n in inside)
    read = dict.fromkeys(o for n in nodes for o in n.all_input_nodes if o not in inside)
    results = tuple(at for n in nodes for at in written.get(n, ()))
    places = tuple(inputs[graph.outputs[at].name] for at in results)
    exports = dict.fromkeys(n for r in of_parameters for n in r.numbers if n in inside)
    region = Region("numbers", _NUMBER, nodes, (), tuple(read), results, places, tuple(exports))
    return region if nodes and list(_apart(graph, [region])) else None


def _lonely(node: fx.Node, inside: set[fx.Node], taken: set[fx.Node]) -> bool:
    """Whether only updates read this number, and it is made of numbers."""
    if not all(u in taken for u in node.users if u.op != "output"):
        return False
    return all(o in inside or (_known(o.meta["val"]) and o.meta["val"].numel() == 1) for o in node.all_input_nodes)


def _elementwise(node: fx.Node, like: torch.Tensor) -> bool:
    emitter, value = KERNELS.get(node.target), node.meta["val"]
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    exact = emitter is not None and emitter.__module__ == pointwise.__name__ and name in _EXACT
    if name in ("add", "sub", "rsub"):
        exact = exact and len(node.args) == 2 and node.kwargs.get("alpha", 1) == 1
    formula = exact or emitter in _ALSO or (name == "sqrt" and _of_single(node))
    return bool(formula) and not has_effect(node) and _known(value) and value.shape == like.shape


def _of_single(root: fx.Node) -> bool:
    """Whether a root in double precision is one of single precision, and becomes one: no kernel errs there."""
    [operand] = root.all_input_nodes
    whole = operand.target is aten._to_copy.default and operand.all_input_nodes[0].meta["val"].dtype == torch.float32
    users = all(u.op == "output" or u.meta["val"].dtype == torch.float32 for u in root.users)
    return whole and users and all(u.target is aten._to_copy.default for u in root.users)


def _closed(node: fx.Node, inside: set[fx.Node], results: set[fx.Node], like: torch.Tensor) -> bool:
    """Whether nobody outside reads ``node``, somebody wants it, and its operands can be read in a loop."""
    wanted = node in results or any(u.op != "output" for u in node.users)
    users = all(u in inside for u in node.users if u.op != "output")
    return wanted and users and all(o in inside or _readable(o.meta["val"], like) for o in node.all_input_nodes)


def _readable(value: Any, like: torch.Tensor) -> bool:
    return _known(value) and (value.numel() == 1 or value.shape == like.shape)


def _known(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dtype in C_TYPES


def _lies_alike(value: torch.Tensor, like: torch.Tensor) -> bool:
    return _known(value) and value.shape == like.shape and value.stride() == like.stride()


def _dense(value: torch.Tensor) -> bool:
    """Whether the elements lie one beside the other, in whatever order."""
    if value.layout is not torch.strided or not _known(value) or not value.numel():
        return False
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(value.stride(), value.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _apart(graph: Graph, candidates: list[Region]) -> Iterator[Region]:
    """Those that read nothing that others write: the rest of the graph is written back first, then each region."""
    own = [{graph.placeholders[k] for k in r.places} for r in candidates]
    names = [o.name for o in graph.outputs if o.kind == "mutation"]
    everything = {graph.placeholder(name) for name in names}
    for region, mine in zip(candidates, own, strict=True):
        if not (everything - mine) & _memory(region.wholes + region.numbers):
            yield region


def _memory(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    return {owner(n) for n in nodes}
