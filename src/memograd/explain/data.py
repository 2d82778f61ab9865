"""What a page about a model shows, as data: computed by the engine, summed up, written as JSON (docs/explain.md)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from memograd import draws
from memograd.adjoint.expand import expand
from memograd.adjoint.products import count_products
from memograd.adjoint.selection import inputs_of, targets_of
from memograd.errors import DataDependentError, GraphError
from memograd.explain.describe import Describer, joint_operators, unwritten, within
from memograd.explain.numbers import COARSE, FINE, NUMBERS, as_json, summary, visit
from memograd.explain.paths import local_derivatives
from memograd.explain.record import Record, record
from memograd.graph.graph import Graph
from memograd.pipeline import capture_for, simplify
from memograd.train.arguments import refuse_criterion
from memograd.train.formulas import sgd
from memograd.train.planning import objective_of, takes_target

SCHEMA, VERSION = "memograd.explain", 1
RATE = 0.1  # of the step of gradient descent that the fourth act shows
_JOINT = 6_000  # operators of forward and backward up to which both are shown as one graph
_SMALL, _ELEMENTS = 120, 512  # nodes of a graph, and elements of each, up to which paths are shown
_LARGE = 5_000  # nodes of a graph above which few numbers of each are shown
_KINDS = {"ask": 0, "hit": 1, "answer": 2, "pull": 3, "pulled": 4, "pass": 5}


@dataclass(frozen=True)
class Subject:
    """What is explained: a program that returns its loss, and the call of it.

    Attributes:
        root: what the names of its parameters begin with, not to be shown.
        inputs: what the program's arguments are called, if it takes them as ``*args``.
        split: whether the model is a module beside the loss (else the loss is where no module runs any more).
    """

    program: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    title: str
    root: str
    split: bool
    inputs: tuple[str, ...] = ()


def subject(f: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], loss: Callable[..., Any] | None) -> Subject:
    """A model or a function with its loss; with a ``loss`` of two arguments the last of ``args`` is its target."""
    if not callable(f):
        raise GraphError(f"expected a module or a function, got {type(f).__name__}")
    refuse_criterion(loss)
    title = type(f).__name__ if isinstance(f, nn.Module) else getattr(f, "__name__", type(f).__name__)
    if isinstance(f, nn.Module):
        names = _names(f.forward, args, loss is not None and takes_target(loss))
        return Subject(objective_of(f, loss), args, kwargs, title, "model", loss is not None, names)
    if loss is None:
        return Subject(f, args, kwargs, title, "", False)
    target = takes_target(loss)

    def program(*batch: Any, **options: Any) -> Any:
        return loss(f(*batch[:-1], **options), batch[-1]) if target else loss(f(*batch, **options))

    return Subject(program, args, kwargs, title, "f", False, _names(f, args, target))


def _names(f: Callable[..., Any], args: tuple[Any, ...], target: bool) -> tuple[str, ...]:
    """What ``f`` calls its arguments, the last of which may be the target of the loss."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return ()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    count = len(args) - target
    return (*names[:count], *(["target"] if target else [])) if len(names) >= count else ()


def collect(what: Subject) -> tuple[dict[str, Any], Graph, Describer]:
    """The data of a page without a memory budget, the graph of forward and backward pass, and who names its nodes."""
    start = time.perf_counter()
    with draws.same_draws(), torch.enable_grad():
        forward, names = _captured(what)
        targets = [forward.results[k] for k in targets_of(forward, None, None)]
        recorded = record(expand(forward, names, targets), names)
        joint = simplify(recorded.joint)
        collection = _Collection(what, recorded, joint, names)
        data = collection.data()
    data["summary"]["seconds"] = round(time.perf_counter() - start, 3)
    return data, joint, collection.describer


def _captured(what: Subject) -> tuple[Graph, list[str]]:
    """The graph of the loss: for any values if it can be, else on the values of this call."""
    trained = isinstance(what.program, nn.Module) and any(p.requires_grad for p in what.program.parameters())
    wrt = () if trained else None
    try:
        forward = capture_for(what.program, what.args, dict(what.kwargs), wrt)
    except DataDependentError:
        forward = capture_for(what.program, what.args, dict(what.kwargs), wrt, concrete=True)
    return forward, inputs_of(forward, None)


class _Collection:
    def __init__(self, what: Subject, recorded: Record, joint: Graph, names: list[str]) -> None:
        self.what = what
        self.recorded = recorded
        self.joint = joint
        self.names = names
        self.forward = recorded.forward
        self.nodes: list[fx.Node] = [*self.forward.placeholders, *self.forward.nodes]
        self.number = {n.name: i for i, n in enumerate(self.nodes)}
        modules = what.program.named_modules() if isinstance(what.program, nn.Module) else ()
        types = {path: type(module).__name__ for path, module in modules}
        self.describer = Describer(what.root, self.number, what.inputs, types)
        self.small: dict[fx.Node, Any] | None = {}  # all values, while they are few

    def data(self) -> dict[str, Any]:
        values, updates = self._numbers()
        products = count_products(self.forward, self.names)
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "title": self.what.title,
            "summary": {
                "operators": len(self.forward.nodes),
                "active": len(self.recorded.adjoints),
                "joint": len(self.joint.nodes),
                "numbers": sum(t.numel() for t in self.forward.parameters.values()),
                "naive": str(products.naive),
                "memoized": products.memoized,
            },
            "nodes": self._nodes(values),
            **self._folders(),
            "rules": self.describer.rules,
            "sources": self.describer.sources(),
            "loss": self.number[self.forward.results[0].name],
            "wrt": [self.number[self.forward.placeholder(n).name] for n in self.names],
            "order": "asked" if self.recorded.asked else "loss first",
            "events": self._events(self.recorded.events),
            "naive": None if self.recorded.naive is None else self._events(self.recorded.naive),
            "local": self._local(),
            "update": {"rate": RATE, "formula": "p − η p̄", "of": updates},
            "whole": joint_operators(self.joint, self.describer) if len(self.joint.nodes) <= _JOINT else None,
        }

    def _numbers(self) -> tuple[dict[fx.Node, Any], list[dict[str, Any]]]:
        """One run of forward and backward: the summary of each node that is shown, and the updated parameters."""
        joint = self.recorded.joint
        by_name = {n.name: n for n in joint.fx.nodes}
        parameters = {by_name[self.forward.placeholder(n).name]: n for n in self.names}
        gradients = {self.recorded.adjoints.get(p.name): p for p in parameters}
        wanted = {by_name[n.name] for n in self.nodes}
        for total in self.recorded.adjoints.values():
            wanted.update(t for t in (total if isinstance(total, list) else [total]) if t is not None)
        wanted.update(node for shares in self.recorded.contributions.values() for _, node in shares)
        values: dict[fx.Node, Any] = {}
        held: dict[fx.Node, torch.Tensor] = {}
        updates: list[dict[str, Any]] = []
        pixels = FINE if len(self.nodes) <= _SMALL else COARSE
        most = NUMBERS if len(self.nodes) <= _LARGE else 4

        def see(node: fx.Node, value: Any) -> None:
            if node in wanted and not unwritten(node):
                values[node] = summary(value, pixels, most)
            if node in parameters:
                held[node] = value
            if node in gradients:
                p = gradients[node]
                plain = {"weight_decay": 0.0, "momentum": 0.0}
                new, _ = sgd(held[p], value, torch.tensor(RATE, dtype=value.dtype), {}, plain)
                updates.append({"node": self.number[p.name], "value": summary(new, pixels)})
            self._keep(node, value)

        flat = joint.bind(self.what.args, self.what.kwargs)
        visit(joint, [t.detach() for t in flat], see)
        updates.sort(key=lambda u: u["node"])
        return {**values, **{n: values.get(by_name[n.name]) for n in self.nodes}}, updates

    def _keep(self, node: fx.Node, value: Any) -> None:
        if self.small is not None and node.name in self.number:
            many = isinstance(value, torch.Tensor) and value.numel() > _ELEMENTS
            if many or len(self.nodes) > _SMALL:
                self.small = None
            else:
                self.small[self.nodes[self.number[node.name]]] = value

    def _nodes(self, values: Mapping[fx.Node, Any]) -> list[dict[str, Any]]:
        inputs = dict(zip(self.forward.placeholders, self.forward.inputs, strict=True))
        losses = self._losses()
        described = []
        for node in self.nodes:
            name = node.name
            one = self.describer.node(node, inputs.get(node))
            one["act"] = "loss" if node in losses else "forward"
            one["value"] = as_json(values, node)
            if name in self.recorded.adjoints:
                total = self.recorded.adjoints[name]
                if isinstance(total, list):
                    one["adjoints"] = [as_json(values, t) for t in total]
                else:
                    one["adjoint"] = as_json(values, total)
                shares = self.recorded.contributions[name]
                alone = len(shares) == 1 and not isinstance(total, list)
                one["contributions"] = [
                    {"from": self.number[u], "value": None if alone else as_json(values, share)} for u, share in shares
                ]
            described.append(one)
        return described

    def _losses(self) -> set[fx.Node]:
        """The operators of the second act: beside the model, or behind the last call of a module inside it."""
        operators = self.forward.nodes
        if self.what.split:
            return {n for n in operators if n.meta.get("calls", ())[:1] != (("model", 0),)}
        root = operators[-1].meta.get("calls", ())
        tail: set[fx.Node] = set()
        for node in reversed(operators):
            if node.meta.get("calls", ()) != root or len(tail) == len(operators) - 1:
                break
            tail.add(node)
        return tail if len(tail) < len(operators) - 1 else {self.forward.results[0]}

    def _folders(self) -> dict[str, Any]:
        calls = [within(n) for n in self.forward.nodes]
        return self.describer.folders(self.forward, calls)

    def _events(self, events: list[tuple[Any, str]]) -> list[list[int]]:
        return [[_KINDS[kind], self.number[name]] for kind, name in events]

    def _local(self) -> list[dict[str, Any]] | None:
        """Local derivatives along every edge, where the graph is small."""
        if not self.small or len(self.small) < len(self.nodes):
            return None
        active = {n for n in self.nodes if n.name in self.recorded.adjoints}
        edges = local_derivatives([n for n in self.nodes if n in active], active, self.small)
        if edges is None:
            return None
        return [{"of": self.number[u.name], "by": self.number[v.name], "entries": e} for u, v, e in edges]
