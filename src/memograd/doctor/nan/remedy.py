"""A remedy: a line of code to write in the program, and the same change made in the graph of the step, to be tried."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan import repair, source
from memograd.doctor.nan.evidence import plain
from memograd.doctor.nan.repair import Outcome
from memograd.doctor.nan.replay import Step
from memograd.graph.bindings import name_of


@dataclass(frozen=True)
class Remedy:
    """What to write, and who tries it; None where nobody can."""

    code: str
    attempt: Callable[[], Outcome | None] | None = None


def line_of(node: fx.Node) -> source.Line:
    """The line of ``node``, and which of its operations it is."""
    alike = [n for n in node.graph.nodes if n.target is node.target and n.meta.get("source") == node.meta.get("source")]
    own = [n for n in alike if n is node or "adjoint_of" not in n.meta]
    return source.Line(str(node.meta.get("line") or ""), own.index(node) if node in own else 0)


def on_operand(
    step: Step, node: fx.Node, names: set[str], method: str, position: int = 0, written_at: int | None = None
) -> Remedy:
    """A method called on an operand before the operator sees it; in the program it may stand in another place."""
    written = source.on_operand(line_of(node), names, position if written_at is None else written_at, method)
    name = plain(name_of(node.target))
    code = written or f"call .{method} on what {name} is called with, before the call"
    arguments = source.parsed(method)
    number = eval(compile(_expression(arguments), "<remedy>", "eval"), {"torch": torch})

    def changed(*args: Any, **kwargs: Any) -> Any:
        new = list(args)
        new[position] = getattr(new[position], arguments.func.id)(*number[0], **number[1])  # pyright: ignore
        return operator_of(node)(*new, **kwargs)

    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _expression(call: Any) -> Any:
    """``([args], {kwargs})`` of a call."""
    keywords = ast.Dict([ast.Constant(k.arg) for k in call.keywords], [k.value for k in call.keywords])
    both = ast.Tuple([ast.List(list(call.args), ast.Load()), keywords], ast.Load())
    return ast.fix_missing_locations(ast.Expression(both))


def operator_of(node: fx.Node) -> Callable[..., Any]:
    target: Any = node.target
    return target


def with_options(step: Step, node: fx.Node, code: str, **options: Any) -> Remedy:
    """Other options of the same operator."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        return operator_of(node)(*args, **{**kwargs, **options})

    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def with_option_at(step: Step, node: fx.Node, code: str, position: int, value: Any) -> Remedy:
    def changed(*args: Any, **kwargs: Any) -> Any:
        new = list(args)
        new[position : position + 1] = [value]
        return operator_of(node)(*new, **kwargs)

    return Remedy(code, lambda: repair.with_operator(step, node, changed))
