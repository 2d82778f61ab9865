"""A line of the user's program with a change in it: what to write there instead."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

_LIBRARIES = {"torch", "F", "functional", "nn", "linalg", "special", "math", "np", "numpy", "jnp"}


def parsed(text: str) -> ast.expr:
    """An expression."""
    return ast.parse(text, mode="eval").body


@dataclass(frozen=True)
class Line:
    """A line, and which of several operations of one sort in it is meant, in the order in which they run."""

    text: str
    occurrence: int = 0


def edited(line: Line, names: Collection[str], change: Callable[[ast.expr], ast.expr | None]) -> str | None:
    """``line`` with an operation that has one of ``names`` (of a function, of a method, or ``/``, ``**``) replaced by
    what ``change`` makes of it; None where the line cannot be read alone, or has none."""
    try:
        tree = ast.parse(line.text.strip())
    except SyntaxError:
        return None
    operations = [n for n in _in_order(tree) if isinstance(n, ast.expr) and called(n) in names]
    if not operations:
        return None
    old = operations[line.occurrence % len(operations)]
    new = change(old)
    if new is None:
        return None
    return ast.unparse(ast.fix_missing_locations(_Replacer(old, new).visit(tree)))


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Operands before what is done with them."""
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)
    yield node


def called(node: ast.expr) -> str:
    """The name of the function or method that an expression calls; ``/`` and ``**`` of operators."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", getattr(node.func, "id", ""))
    if isinstance(node, ast.BinOp):
        return {ast.Div: "/", ast.Pow: "**", ast.Mult: "*"}.get(type(node.op), "")
    return ""


def operand(node: ast.expr, position: int = 0) -> ast.expr | None:
    """What a function or method is called on (``torch.log(x)``, ``x.log()``), or what an operator stands between."""
    if isinstance(node, ast.BinOp):
        return (node.left, node.right)[position]
    if not isinstance(node, ast.Call):
        return None
    method = isinstance(node.func, ast.Attribute) and not _is_library(node.func.value)
    operands = [node.func.value, *node.args] if method and isinstance(node.func, ast.Attribute) else node.args
    return operands[position] if position < len(operands) else None


def with_operand(node: ast.expr, position: int, new: ast.expr) -> ast.expr | None:
    """``node`` with another operand."""
    old = operand(node, position)
    return None if old is None else _Replacer(old, new).visit(node)


class _Replacer(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self.old, self.new = old, new

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)


def _is_library(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in _LIBRARIES


def method(on: ast.expr, text: str) -> ast.expr:
    """``on.clamp_min(1e-8)`` for ``clamp_min(1e-8)``."""
    call = parsed(text)
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    return ast.Call(ast.Attribute(on, call.func.id, ast.Load()), call.args, call.keywords)


def on_operand(line: Line, names: Collection[str], position: int, text: str) -> str | None:
    """``line`` with a method called on an operand of the first such operation (``log(x.clamp_min(1))``)."""

    def change(node: ast.expr) -> ast.expr | None:
        old = operand(node, position)
        return None if old is None else with_operand(node, position, method(old, text))

    return edited(line, names, change)


def argument(line: Line, names: Collection[str], position: int) -> str | None:
    """The text of an argument of the first such call."""
    texts: list[str] = []

    def look(node: ast.expr) -> None:
        old = operand(node, position)
        if old is not None and not texts:
            texts.append(ast.unparse(old))

    edited(line, names, look)
    return texts[0] if texts else None
