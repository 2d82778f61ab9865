"""A schedule as straight-line Python: recomputations and frees are visible, and this text is what runs.

Each run of an operator gets names of its own (``relu``, then ``relu_again1``). Views are made where they are read, and
every name is deleted behind its last use, so that a storage dies exactly where the plan says.
"""

from __future__ import annotations

import hashlib
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from memograd import finite
from memograd.graph.bindings import takes_generator
from memograd.graph.printing import HEADER, definitions, expression
from memograd.graph.views import viewed
from memograd.memory.costs.storages import Storages
from memograd.memory.costs.tensors import device_of

_HEADER = HEADER.replace(
    "\n\n", "\nfrom memograd.draws import drawing_from, drawn_alone, own_generator, rng_state\n\n", 1
)


@dataclass
class Line:
    """``target = text``; ``target`` is empty for a write. ``reads`` are the names in it."""

    target: str
    text: str
    reads: tuple[str, ...]
    comment: str = ""
    inside: str = ""  # a statement around it


class Emitter:
    """Writes the lines of a schedule."""

    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self.names: dict[fx.Node, str] = {n: n.name for n in storages.graph.placeholders}
        self.views: dict[fx.Node, list[fx.Node]] = {}  # made of the present copy of a node
        self.runs: dict[int, int] = {}
        self.lines: list[Line] = []
        self.repeated: set[int] = set()
        self.left: Counter[int] = Counter()  # how often each operator is still to run
        self.returned: dict[fx.Node, list[fx.Node]] = {}  # by whose memory they look at
        graph = storages.graph  # where an accelerator says whether the step is finite, it decides about each write
        flags = [graph.results[k].meta["val"].device for k in graph.positions("flag")]
        self.guarded = any(map(finite.is_asynchronous, flags))

    def source(self, schedule: Sequence[int], name: str = "step") -> str:
        """A function of the graph's flat inputs: it writes mutations into them, and returns the other results."""
        graph = self.storages.graph
        self.left = Counter(schedule)
        self.repeated = {k for k, runs in self.left.items() if runs > 1}
        returned = [n for n, o in zip(graph.results, graph.outputs, strict=True) if o.kind != "mutation"]
        for node in returned:
            self.returned.setdefault(self._origin(node), []).append(node)
        for number in schedule:
            self._run(number)
        results = [self._name(n) for n in returned]
        parameters = [n.name for n in graph.placeholders]
        header = _HEADER.replace("\n\n", "\nfrom memograd.finite import write\n\n", 1) if self.guarded else _HEADER
        text = [header, *definitions(graph.nodes), f"def {name}({', '.join(parameters)}):"]
        for line, dying in zip(self.lines, _dying(self.lines, {*results, *parameters}), strict=True):
            comment = f"  # {line.comment}" if line.comment else ""
            indent = "        " if line.inside else "    "
            text += [f"    {line.inside}:"] if line.inside else []
            text.append(f"{indent}{f'{line.target} = ' if line.target else ''}{line.text}{comment}")
            if dying:
                text.append(f"    del {', '.join(dying)}")
        text.append(f"    return ({''.join(f'{r}, ' for r in results)})")
        return "\n".join(text) + "\n"

    def _run(self, number: int) -> None:
        what = self.storages.operators[number]
        self.left[number] -= 1
        if what.into is not None:
            old, new = what.into.name, self._name(what.node)
            self.lines.append(Line("", f"write({old}, {new})" if self.guarded else f"{old}.copy_({new})", (new,)))
            return
        if what.saves:
            if self.storages.index[what.node] in self.repeated:
                self.lines.append(Line(f"{what.node.name}_state", f"rng_state({device_of(what.node)!r})", ()))
            return
        repeats = self.runs.get(number, 0)
        self.runs[number] = repeats + 1
        suffix = f"_again{repeats}" if repeats else ""
        self._forget(what.node)
        module = what.node.meta.get("module")
        comment = f"computed again{f' ({module})' if module else ''}" if repeats else ""
        drawn = number in self.storages.states and (repeats or number in self.repeated)
        state = f"{what.node.name}_state" if drawn else ""
        self._line(what.node, suffix, comment, state)
        parts = [u for u in what.node.users if u.target is operator.getitem]
        if isinstance(what.node.meta["val"], (tuple, list)):
            for part in parts:  # at once, so that the results nobody needs die here
                self._line(part, suffix)
        if not self.left[number]:
            for result in self.returned.get(what.node, ()):
                self._name(result)  # a result is there as soon as it is computed

    def _line(self, node: fx.Node, suffix: str = "", comment: str = "", state: str = "") -> None:
        inputs = {n: self._name(n) for n in node.all_input_nodes}
        self.names[node] = node.name + suffix
        text = expression(node, inputs.__getitem__)
        reads = (*inputs.values(), *([state] if state else []))
        inside = ""
        if state and takes_generator(node):
            text = f"{text.removesuffix(')')}, generator=generator)"
            where = f"{state}, {device_of(node)!r}"
            alone = f"for {state}, generator in drawn_alone({where})"
            inside = f"with own_generator({where}) as generator" if comment else alone
        elif state:
            inside = f"with drawing_from({state}, {device_of(node)!r}, lasting={not comment})"
        self.lines.append(Line(self.names[node], text, reads, comment, inside))

    def _name(self, node: fx.Node) -> str:
        """The variable that holds ``node`` now; makes the view if it must."""
        if node not in self.names:
            base = viewed(node)
            assert base is not None, f"{node.name} is read before it is computed"
            self._name(base)
            self._line(node, self._suffix(node))
            self.views.setdefault(base, []).append(node)
        return self.names[node]

    def _suffix(self, node: fx.Node) -> str:
        """A view is called after the copy it looks at."""
        repeats = self.runs.get(self.storages.index.get(self._origin(node), -1), 1) - 1
        return f"_again{repeats}" if repeats else ""

    def _origin(self, node: fx.Node) -> fx.Node:
        """The operator whose memory ``node`` looks at."""
        while node not in self.storages.index and (base := viewed(node)) is not None:
            node = base
        return node

    def _forget(self, node: fx.Node) -> None:
        """A new copy makes views of the old one, and its parts, stale."""
        self.names.pop(node, None)
        stale = [*self.views.pop(node, []), *(u for u in node.users if u.target is operator.getitem)]
        for view in stale:
            self._forget(view)


def _dying(lines: Sequence[Line], results: set[str]) -> list[list[str]]:
    """For each line the names that no later line reads."""
    read_later = set(results)
    dying: list[list[str]] = []
    for line in reversed(lines):
        names = [n for n in dict.fromkeys((line.target, *line.reads)) if n and n not in read_later]
        read_later.update(names)
        dying.append(names)
    return dying[::-1]


def source(storages: Storages, schedule: Sequence[int]) -> str:
    """The Python text that runs ``schedule``."""
    return Emitter(storages).source(schedule)


def fingerprint(storages: Storages) -> str:
    """Identifies a graph: a hash of its operators as text and of the geometry of its inputs."""
    text = source(storages, storages.unplanned)
    inputs = [
        (i.kind, i.name, str(n.meta["val"].dtype), tuple(n.meta["val"].shape), tuple(n.meta["val"].stride()))
        for i, n in zip(storages.graph.inputs, storages.graph.placeholders, strict=True)
    ]
    return hashlib.sha256(f"{text}{inputs}".encode()).hexdigest()
