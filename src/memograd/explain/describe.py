"""What a page says about an operator: its name, the call, the rule, the place in the user's program."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from memograd.explain.folders import Call, common, fold
from memograd.explain.mathml import real, typeset
from memograd.graph.entries import Input
from memograd.graph.graph import Graph
from memograd.graph.printing import expression, target_name
from memograd.graph.views import owner
from memograd.ops import behind_stops
from memograd.rules.registry import Entry, lookup
from memograd.tracing.operator_kinds import MEMORY
from memograd.tracing.provenance import file_called

_AROUND = 4  # lines of the source before and behind the one that is shown
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "target": "t", "weight": "w", "bias": "b"}
_MEAN = 1  # the reduction of a loss, as ATen numbers them
_BY_ELEMENT = {"mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "smooth_l1_loss"}
_BY_ELEMENT |= {"soft_margin_loss"}  # losses of which there is one for each element
_STRETCH = {torch.ops.aten.addmm.default, torch.ops.aten.baddbmm.default}  # their first operand may be broadcast
_LONG = 240  # characters of an expression


def short(node: fx.Node) -> str:
    """``addmm`` of ``aten.addmm.default``; a node that picks a result is ``[i]``."""
    if node.op != "call_function":
        return node.name
    name = target_name(node.target)
    if name.endswith("getitem"):
        return f"[{node.args[1]}]"
    parts = name.removeprefix("torch.ops.").split(".")
    return parts[1] if len(parts) > 1 and parts[0] in ("aten", "memograd", "prims") else parts[-1]


_UNWRITTEN = MEMORY | {torch.ops.aten.empty_permuted}


def unwritten(node: fx.Node) -> bool:
    """Whether nothing was written to the memory that is its value, or that it is a view of: what happens to stand there
    is no number of ours."""
    while (base := owner(behind_stops(node))) is not node:
        node = base
    return getattr(node.target, "overloadpacket", None) in _UNWRITTEN


def within(node: fx.Node) -> tuple[Call, ...]:
    """The calls of modules that an operator runs in, without that of the whole model."""
    calls = node.meta.get("calls", ())
    return calls[1:] if calls[:1] == (("model", 0),) else calls


def label(node: fx.Node) -> str:
    """A name that tells operators of one kind apart: ``addmm_1``; of a result of several ``unbind[0]``."""
    if target_name(node.target).endswith("getitem"):
        source: Any = node.args[0]
        return f"{label(source) if source.op == 'call_function' else source.name}[{node.args[1]}]"
    return node.name


def shown(path: str, root: str) -> str:
    """A dotted path without the variable that holds the model."""
    return "" if path == root else path.removeprefix(f"{root}.") if root else path


class Describer:
    """Describes the nodes of one graph; rules and lines of source are listed once and referred to by number."""

    def __init__(
        self, root: str, number: Mapping[str, int], inputs: Sequence[str] = (), types: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.types = types or {}  # of modules, by path
        self.inputs = inputs
        self.number = number
        self.rules: list[dict[str, Any]] = []
        self._rules: dict[Any, int] = {}
        self._lines: dict[str, set[int]] = {}

    def node(self, node: fx.Node, entry: Input | None) -> dict[str, Any]:
        """Everything about a node but its numbers."""
        if entry is not None:
            name = self.input(entry)
            return {"name": node.name, "kind": entry.kind, "op": name, "label": name, "reads": []}
        meta = node.meta
        described: dict[str, Any] = {
            "name": node.name,
            "kind": "operator",
            "op": target_name(node.target),
            "label": label(node),
            "reads": [self.number[n.name] for n in node.all_input_nodes],
            "code": _cut(expression(node)),
            "module": shown(meta.get("module") or "", self.root),
        }
        file, _, line = (meta.get("source") or "").rpartition(":")
        if file and line.isdigit():
            described["source"] = [file, int(line), meta.get("line") or ""]
            self._lines.setdefault(file, set()).add(int(line))
        rule = lookup(node.target)
        if rule is not None:
            complex_ = any(isinstance(v, torch.Tensor) and v.is_complex() for v in _values(node))
            described["rule"] = self._rule(rule, complex_)
            described["symbols"] = self._symbols(node, rule)
            described |= _liberties(node, rule)
        return described

    def input(self, entry: Input) -> str:
        """Its name in the program: of what was passed as ``*args`` the name that the model has for it."""
        position = entry.name.removeprefix("arg")
        if entry.kind == "input" and position.isdigit() and int(position) < len(self.inputs):
            return self.inputs[int(position)]
        return shown(entry.name, self.root)

    def _rule(self, rule: Entry, complex_: bool) -> int:
        key = (rule.target, complex_)
        if key not in self._rules:
            formula = rule.formula if complex_ else real(rule.formula)
            self._rules[key] = len(self.rules)
            self.rules.append(
                {
                    "operator": str(rule.target),
                    "kind": rule.kind,
                    "formula": rule.formula,
                    "tree": typeset(formula),
                    "file": f"rules/{rule.file}" if rule.own else rule.file,
                }
            )
        return self._rules[key]

    def _symbols(self, node: fx.Node, rule: Entry) -> dict[str, Any]:
        """What the letters of the rule's formula stand for here: nodes by number, or numbers."""
        if rule.function is None or rule.kind != "rule":
            return {}
        parameters = list(inspect.signature(rule.function).parameters.values())[2:]
        symbols: dict[str, Any] = {}
        for i, parameter in enumerate(parameters):
            operand = node.args[i] if i < len(node.args) else node.kwargs.get(parameter.name, parameter.default)
            letter = _GREEK.get(parameter.name, parameter.name)
            if isinstance(operand, fx.Node):
                symbols[letter] = {"node": self.number[operand.name]}
            elif isinstance(operand, int | float) and not isinstance(operand, bool):
                symbols[letter] = {"number": operand}
            elif operand is None and letter == "w":
                symbols[letter] = {"number": 1}
        return symbols

    def folders(self, graph: Graph, calls: Sequence[tuple[Call, ...]]) -> dict[str, Any]:
        """The folders of a graph whose operators ran in these calls, and where each node lies, inputs first: these lie
        where all that read them lie (in the forward pass, where there is one: else they would all lie at the top)."""
        operators = graph.nodes
        folders, places = fold(calls, [short(n) for n in operators], self.root)
        place: dict[fx.Node, int | None] = dict(zip(operators, places, strict=True))
        above = [f.parent for f in folders]
        for node in graph.placeholders:
            readers = [u for u in node.users if u in place]
            first = [u for u in readers if _phase(u) == "forward"] or readers
            place[node] = common([place[u] for u in first], above)
        return {
            "folders": [
                {
                    **vars(f),
                    "path": shown(f.path, self.root),
                    "label": shown(f.label, self.root),
                    "type": self.types.get(f.path, "") if f.kind == "module" else "",
                }
                for f in folders
            ],
            "places": [place[n] for n in (*graph.placeholders, *operators)],
        }

    def sources(self) -> dict[str, dict[str, str]]:
        """Of each file the lines around those that operators come from, by number."""
        places: dict[str, dict[str, str]] = {}
        for name, lines in self._lines.items():
            path = file_called(name)
            text = linecache.getlines(path) if path else []
            near = {k for n in lines for k in range(n - _AROUND, n + _AROUND + 1) if 0 < k <= len(text)}
            places[name] = {str(k): text[k - 1].rstrip("\n") for k in sorted(near)}
        return places


def _liberties(node: fx.Node, rule: Entry) -> dict[str, Any]:
    """What the table's formula leaves out, and its numbers must not: ``mean``, the number of losses that an average is
    over (0: it is not known here), and ``stretched``, operands of another shape, whose adjoints are summed."""
    liberties: dict[str, Any] = {}
    names = list(inspect.signature(rule.function).parameters)[2:] if rule.function is not None else []
    if "reduction" in names:
        position = names.index("reduction")
        reduction = node.args[position] if position < len(node.args) else node.kwargs.get("reduction", _MEAN)
        if reduction == _MEAN:
            losses: Any = node.args[0]
            liberties["mean"] = losses.meta["val"].numel() if short(node) in _BY_ELEMENT else 0
    operators = node.target in _STRETCH or torch.Tag.pointwise in getattr(node.target, "tags", ())
    shapes = {v.meta["val"].shape for v in node.all_input_nodes if isinstance(v.meta["val"], torch.Tensor)}
    if operators and isinstance(node.meta["val"], torch.Tensor) and shapes - {node.meta["val"].shape}:
        liberties["stretched"] = True
    return liberties


def joint_operators(joint: Graph, describer: Describer) -> dict[str, Any]:
    """Forward and backward as the one graph that ``mg.differentiate`` returns, for the page's second picture."""
    nodes = [*joint.placeholders, *joint.nodes]
    number = {n: i for i, n in enumerate(nodes)}
    inputs = dict(zip(joint.placeholders, joint.inputs, strict=True))
    named = zip(joint.results, joint.outputs, strict=True)
    gradients = {n: shown(o.name, describer.root) for n, o in named if o.kind == "gradient"}
    described = []
    for node in nodes:
        entry = inputs.get(node)
        one: dict[str, Any] = {
            "name": node.name,
            "label": describer.input(entry) if entry is not None else label(node),
            "kind": entry.kind if entry is not None else _phase(node),
            "reads": [number[n] for n in node.all_input_nodes],
            "shape": _geometry(node),
        }
        if entry is None:
            one |= {"code": _cut(expression(node)), "of": node.meta.get("adjoint_of", "")}
        if node in gradients:
            one["gradient"] = gradients[node]
        described.append(one)
    calls = [((_phase(n), 0), *within(n)) for n in joint.nodes]
    return {"nodes": described, **describer.folders(joint, calls)}


def _phase(node: fx.Node) -> str:
    return "backward" if "adjoint_of" in node.meta else "forward"


def _geometry(node: fx.Node) -> str:
    return " ".join("×".join(map(str, v.shape)) or "1" for v in _values(node) if isinstance(v, torch.Tensor))


def _values(node: fx.Node) -> list[Any]:
    value = node.meta["val"]
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
