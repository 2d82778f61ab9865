"""Graphs as straight-line Python: what `graph.code` shows and what the eager backend runs is the same text."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from memograd._torch import quick
from memograd.graph.bindings import form_of, name_of
from memograd.targets import Target

if TYPE_CHECKING:
    from memograd.graph.graph import Graph

HEADER = """import torch
import memograd.tracing.functions
from torch import device, inf, nan

aten = torch.ops.aten
"""
_OPERATOR = re.compile(
    r"^(\s+\w+ = )(torch\.ops\.\w+|aten)\.(\w+)\.(\w+)\(", re.MULTILINE
)  # as ``target_name`` says it


def annotated(graph: Graph, name: str = "graph") -> str:
    """The graph as one runnable Python function of the flat inputs, with comments: which module and source line each
    line comes from, and whose adjoint it is."""
    lines = [HEADER, *definitions(graph.nodes), f"def {name}({', '.join(n.name for n in graph.placeholders)}):"]
    for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
        lines.append(f"    # {node.name}: {entry.kind} {entry.name!r}, {describe(node.meta['val'])}")
    marker: tuple[Any, ...] = ()
    for node in graph.nodes:
        if (heading := _heading(node)) != marker:
            marker = heading
            lines.append(f"    # {' | '.join(h for h in heading if h)}")
        lines.append(f"    {node.name} = {expression(node)}")
    kinds = ", ".join(f"{o.kind} {o.name!r}" for o in graph.outputs)
    lines.append(f"    # returns {kinds}")
    results = "".join(f"{n.name}, " for n in graph.results)
    lines.append(f"    return ({results})")
    return "\n".join(lines) + "\n"


def flat_function(name: str, inputs: list[fx.Node], nodes: list[fx.Node], results: list[fx.Node]) -> str:
    """Source of a function of ``inputs`` that computes ``nodes`` in the order given, frees each value behind its last
    use, and returns ``results``."""
    head = [f"def {name}({', '.join(n.name for n in inputs)}):"]
    return _function(head, nodes, results, last_uses(nodes, results))


def boxed_function(name: str, inputs: list[fx.Node], nodes: list[fx.Node], results: list[fx.Node]) -> str:
    """The same of one list of ``inputs``, which it empties, so that these are freed behind their last use as well."""
    names, given = {n.name for n in (*inputs, *nodes)}, "given"
    while given in names:  # an argument or a parameter of the user's is called so
        given += "_"
    unpacked = [f"    [{', '.join(n.name for n in inputs)}] = {given}"] if inputs else []
    head = [f"def {name}({given}):", *unpacked, f"    {given}.clear()"]
    read = {operand for node in nodes for operand in node.all_input_nodes}
    unread = [n.name for n in dict.fromkeys(inputs) if n not in read and n not in results]
    if unread:
        head.append(f"    del {', '.join(unread)}")
    return _function(head, nodes, results, last_uses(nodes, results, inputs))


def _function(head: list[str], nodes: list[fx.Node], results: list[fx.Node], last: dict[fx.Node, list[fx.Node]]) -> str:
    lines = [HEADER, *definitions(nodes), *head]
    for node in nodes:
        lines.append(f"    {node.name} = {expression(node)}")
        if last[node]:
            lines.append(f"    del {', '.join(n.name for n in last[node])}")
    lines.append(f"    return ({''.join(f'{n.name}, ' for n in results)})")
    return "\n".join(lines) + "\n"


def load(source: str, name: str, scope: dict[str, Any] | None = None) -> Callable[..., Any]:
    """The function called ``name`` that ``source`` defines; ``scope``: what else its names mean. Operators that are
    written out are looked up once."""
    scope = {} if scope is None else scope
    source = _OPERATOR.sub(functools.partial(_looked_up, scope), source)
    exec(compile(source, f"<memograd {name}>", "exec"), scope)  # our own printer wrote it
    return scope[name]


def _looked_up(scope: dict[str, Any], call: re.Match[str]) -> str:
    """The beginning of this call, by a name that ``scope`` has from now on: with dots in it that no operator's name
    has, so that ``scale.by_two`` and ``scale_by.two`` stay two, and no value is called so."""
    value, namespace, packet, overload = call.groups()
    name = f"{namespace.rpartition('.')[-1]}·{packet}·{overload}"
    operators = getattr(torch.ops, namespace.removeprefix("torch.ops."))
    scope[name] = quick(getattr(getattr(operators, packet), overload))
    return f"{value}{name}("


def definitions(nodes: Iterable[fx.Node]) -> list[str]:
    """The fused kernels that ``nodes`` call, as text that defines them, and what stands for calls of the user's own
    backwards."""
    targets = [n.target for n in nodes if isinstance(n.target, Target)]
    imports, texts = dict.fromkeys(t.needs for t in targets), dict.fromkeys(t.definition for t in targets)
    return [text for text in (*imports, *texts) if text]


def last_uses(
    nodes: list[fx.Node], results: list[fx.Node], given: Sequence[fx.Node] = ()
) -> dict[fx.Node, list[fx.Node]]:
    """For each operator the values that nobody reads after it (inputs are the caller's and not listed, but for those
    that are ``given`` away)."""
    read_later = set(results)
    own = {*nodes, *given}
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(nodes):
        last[node] = [n for n in dict.fromkeys((node, *node.all_input_nodes)) if n in own and n not in read_later]
        read_later.update(last[node])
    return last


def expression(node: fx.Node, name: Callable[[fx.Node], str] = str) -> str:
    """The right-hand side that computes ``node``; ``name`` says what its operands are called."""
    if node.target is operator.getitem:
        return f"{_literal(node.args[0], name)}[{_literal(node.args[1], name)}]"
    args = [_literal(a, name) for a in node.args] + [f"{k}={_literal(v, name)}" for k, v in node.kwargs.items()]
    form = form_of(node)
    if form == "method":
        return f"{args[0]}.{name_of(node.target)}({', '.join(args[1:])})"
    written = f"torch.{name_of(node.target)}" if form == "function" else target_name(node.target)
    return f"{written}({', '.join(args)})"


def target_name(target: Any) -> str:
    """How the operator is written in Python."""
    if isinstance(target, torch._ops.OpOverload):
        text = str(target)
        packet, _, overload = text.rpartition(".")
        if iskeyword(overload):  # aten.random.from
            return f'getattr({packet}, "{overload}")'
        return text if text.startswith("aten.") else f"torch.ops.{text}"
    if not hasattr(target, "__qualname__"):  # an application of an autograd.Function, a fused kernel
        return repr(target)
    return f"{target.__module__}.{target.__qualname__}"


def describe(value: Any) -> str:
    """``float32[4, 2]``, or for several tensors their list."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return f"({', '.join(describe(v) for v in value)})" if isinstance(value, (tuple, list)) else repr(value)


def _heading(node: fx.Node) -> tuple[str, ...]:
    meta = node.meta
    whose = f"adjoint of {meta['adjoint_of']}" if "adjoint_of" in meta else ""
    whose = f"update of {meta['update_of']}" if "update_of" in meta else whose
    return (whose, meta.get("module") or "", meta.get("source") or "", meta.get("line") or "")


def _literal(value: Any, name: Callable[[fx.Node], str]) -> str:
    if isinstance(value, fx.Node):
        return name(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_literal(v, name) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_literal(v, name)}" for k, v in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({', '.join(_literal(v, name) for v in (value.start, value.stop, value.step))})"
    if isinstance(value, torch.device):
        return f"device({str(value)!r})"
    return repr(value)  # numbers, strings, None, dtypes, layouts and memory formats print as they are written
