"""The backward pass in segments, each of which ends with some of the gradients.

A gradient is of use before the last one is computed: ``DistributedDataParallel`` sums it over machines meanwhile, an
optimizer may step and free it. So the operators are put in an order in which the gradients of the last layers are done
first, and cut where enough bytes of gradients have gathered. A planned backward pass keeps the plan's own order and
pauses there. No value changes.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd.adjoint.partition import part
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.looks import trusting
from memograd.ops import has_effect

LEAST_BYTES = 256 * 1024  # of gradients that are worth a segment of their own
MOST = 16  # segments: each is a node of autograd's

Handed = dict[int, torch.Tensor]  # gradients by position
Build = Callable[[Graph], Callable[[list[Any]], Any]]


def groups(order: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """``order`` (positions of gradients of so many bytes) in pieces that are large enough."""
    enough = max(LEAST_BYTES, sum(sizes) // MOST)
    pieces: list[list[int]] = [[]]
    gathered = 0
    for k in order:
        if pieces[-1] and gathered >= enough:
            pieces.append([])
            gathered = 0
        pieces[-1].append(k)
        gathered += sizes[k]
    return pieces


def bytes_of(node: fx.Node) -> int:
    return node.meta["val"].numel() * node.meta["val"].element_size()


@dataclass(frozen=True)
class _Segment:
    """``function([*reads]) -> (gradients..., writes...)``, all of them names of values; ``dead``: nobody reads them
    later."""

    function: Callable[..., Any]
    reads: tuple[str, ...]
    gradients: tuple[int, ...]
    writes: tuple[str, ...]
    dead: tuple[str, ...]


class Segments:
    """A graph whose results are gradients, cut into functions.

    Args:
        lowered: the graph, as a backend runs it.
        build: makes of a graph what runs it, as a function of the list of its inputs, which it may empty.

    Attributes:
        groups: which of the gradients come together.
    """

    def __init__(self, lowered: Graph, build: Build) -> None:
        self.graph = lowered
        self.build = build
        before = _ancestors(lowered.nodes)
        self._needs = [before.get(g, 0) for g in lowered.results]
        order = sorted(range(len(self._needs)), key=lambda k: (self._needs[k].bit_count(), self._needs[k]))
        self.groups = groups(order, [bytes_of(g) for g in lowered.results])

    @cached_property
    def segments(self) -> list[_Segment]:
        nodes = self.graph.nodes
        everything = (1 << len(nodes)) - 1
        done, parts = 0, []
        for number, group in enumerate(self.groups):
            wanted = everything if number == len(self.groups) - 1 else 0
            for k in group:
                wanted |= self._needs[k]
            parts.append([n for at, n in enumerate(nodes) if (wanted & ~done) >> at & 1])
            done |= wanted
        later: set[fx.Node] = set()  # what segments behind this one read
        cut: list[_Segment] = []
        for group, own in zip(reversed(self.groups), reversed(parts), strict=True):
            cut.append(self._cut(group, own, later))
        return cut[::-1]

    def _cut(self, group: list[int], nodes: list[fx.Node], later: set[fx.Node]) -> _Segment:
        gradients = [self.graph.results[k] for k in group]
        own = set(nodes)
        reads = [n for m in nodes for n in m.all_input_nodes if n not in own] + [g for g in gradients if g not in own]
        reads = list(dict.fromkeys(reads))
        writes = [n for n in nodes if n in later]
        dead = [n.name for n in reads if n not in later]
        later.update(reads)
        returned = [*gradients, *writes]
        signature: Any = {
            "inputs": tuple(Input("input", n.name) for n in reads),
            "outputs": tuple(Output("output", n.name) for n in returned),
        }
        function = self.build(self.graph.with_fx(part(reads, nodes, returned), **signature))
        names = tuple(n.name for n in reads), tuple(group), tuple(n.name for n in writes), tuple(dead)
        return _Segment(function, *names)

    def run(self, values: list[torch.Tensor]) -> Iterator[Handed]:
        """The gradients, segment by segment. Empties ``values``."""
        read = {name for segment in self.segments for name in segment.reads}
        named = zip((n.name for n in self.graph.placeholders), values, strict=True)
        alive = {name: value for name, value in named if name in read}
        del named
        values.clear()
        for segment in self.segments:
            given = [alive[name] for name in segment.reads]
            for name in segment.dead:
                alive.pop(name, None)
            with trusting():
                out = run(segment.function, [given])
            alive.update(zip(segment.writes, out[len(segment.gradients) :], strict=True))
            handed = dict(zip(segment.gradients, out, strict=False))
            del out
            yield handed


def _ancestors(nodes: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """Which of ``nodes`` each one needs, itself too, as the bits of a number. An operator comes with the parts of its
    result, and what has an effect behind all that has one before it."""
    place = {node: at for at, node in enumerate(nodes)}
    before: dict[fx.Node, int] = {}
    effects = 0
    for at, node in enumerate(nodes):
        mask = 1 << at
        for user in node.users:
            if user.target is operator.getitem and user in place:
                mask |= 1 << place[user]
        for operand in node.all_input_nodes:
            mask |= before.get(operand, 0)
        if has_effect(node):
            mask |= effects
            effects = mask
        before[node] = mask
    return before


def paused(source: str, sizes: Sequence[int]) -> tuple[str, list[list[int]]]:
    """The text of a planned step, which waits for cotangents at one place, as one that hands its results out behind
    it: each time some of them, by position, and holds them no longer. Also which come together."""
    tree = ast.parse(source)
    step = tree.body[-1]
    assert isinstance(step, ast.FunctionDef) and isinstance(step.body[-1], ast.Return)
    *body, returned = step.body
    names = [name.id for name in returned.value.elts]  # pyright: ignore[reportAttributeAccessIssue]
    waits = next(at for at, line in enumerate(body) if any(isinstance(n, ast.Yield) for n in ast.walk(line)))
    stored_at = {n.id: at for at, line in enumerate(body) for n in _names(line) if isinstance(n.ctx, ast.Store)}
    ready_at = [max(waits, stored_at.get(name, 0)) for name in names]
    together = groups(sorted(range(len(names)), key=ready_at.__getitem__), sizes)
    ends = [max((ready_at[k] for k in group), default=waits) for group in together]
    ends[-1] = len(body) - 1  # what else is to run comes before the last ones
    read: set[str] = set()  # further down
    lines: list[ast.stmt] = []
    for at in reversed(range(len(body))):
        for group in reversed([g for g, end in zip(together, ends, strict=True) if end == at]):
            lines += reversed(_handed_out({k: names[k] for k in group}, read))
            read.update(names[k] for k in group)
        lines.append(body[at])
        read.update(n.id for n in _names(body[at]) if isinstance(n.ctx, ast.Load))
    step.body = lines[::-1]
    return ast.unparse(ast.fix_missing_locations(tree)), together


def _names(line: ast.stmt) -> list[ast.Name]:
    return [n for n in ast.walk(line) if isinstance(n, ast.Name)]


def _handed_out(group: dict[int, str], read: set[str]) -> list[ast.stmt]:
    """The lines that give away these results; the names that are ``read`` further down stay."""
    pairs = ", ".join(f"{k}: {name}" for k, name in group.items())
    gone = [name for name in dict.fromkeys(group.values()) if name not in read]
    text = [f"handed__ = {{{pairs}}}", *([f"del {', '.join(gone)}"] if gone else []), "yield handed__"]
    return ast.parse("\n".join(text)).body
