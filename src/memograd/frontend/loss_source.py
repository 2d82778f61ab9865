"""The loss of somebody else's loop as a program: the statements between the model's result and ``loss.backward()``, as
they stand in the loop's source, on the values that its variables have now.

It is looked at when gradients have come that are not finite, and the model is not to blame. The statements run once
more only to be captured, on tensors without data, which changes nothing.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch

Tensor = torch.Tensor
_BACKWARD = Tensor.backward.__code__
Found = tuple[Callable[..., Any], tuple[Tensor, ...], list[str]]


def root() -> Tensor | None:
    """The tensor whose ``backward()`` is under way in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _BACKWARD:
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def loss_program(call: Any) -> Found | None:
    """(the loss as a function of the model's results, these, and what the loop calls them); None where the loop's
    source does not say."""
    frame: FrameType | None = sys._getframe(1)
    roots: list[Any] = []
    while frame is not None:
        own = frame.f_locals.get("self")
        if frame.f_code.co_name == "backward" and isinstance(own, Tensor) and own.grad_fn is not None:
            roots = [own.grad_fn, *(f for f, _ in own.grad_fn.next_functions if f is not None)]
        elif roots and (source := _in_frame(frame, roots, call)) is not None:
            return source
        frame = frame.f_back
    return None


def _in_frame(frame: FrameType, roots: list[Any], call: Any) -> Found | None:
    """The same, if it is in this frame that the loss has a name."""
    values = dict(frame.f_locals)
    names = [n for r in roots for n, v in values.items() if isinstance(v, Tensor) and v.grad_fn is r]
    if not names:
        return None
    lines = linecache.getlines(frame.f_code.co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return None
    results = {n for n, v in values.items() if isinstance(v, Tensor) and getattr(v.grad_fn, "call", None) is call}
    before = _before(tree, frame.f_lineno)
    chosen = _slice(before, names[0], values, results)
    if not chosen:
        return None
    code = compile(ast.Module(chosen, []), frame.f_code.co_filename, "exec")
    return _program(code, {**frame.f_globals, **values}, names[0], sorted(results))


def _program(code: CodeType, scope: dict[str, Any], name: str, results: list[str]) -> Found:
    def loss(*inputs: Tensor) -> Any:
        own = {**scope, **dict(zip(results, inputs, strict=True))}
        exec(code, own)
        return own[name]

    return loss, tuple([scope[n].detach().requires_grad_() for n in results]), results


def _before(tree: ast.AST, line: int) -> list[ast.stmt]:
    """The statements in front of the one at ``line``, those of the blocks around it first."""
    before: list[ast.stmt] = []
    block: Any = getattr(tree, "body", [])
    while True:
        here = next((s for s in block if s.lineno <= line <= (s.end_lineno or s.lineno)), None)
        if here is None:
            return before
        inner = [b for field in ("body", "orelse", "finalbody") if isinstance(b := getattr(here, field, None), list)]
        if isinstance(here, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            before = []  # another scope
        else:
            before += block[: block.index(here)]
        block = next((b for b in inner if b and b[0].lineno <= line <= (b[-1].end_lineno or line)), [])


def _slice(before: list[ast.stmt], name: str, values: dict[str, Any], results: set[str]) -> list[ast.stmt]:
    """Those statements that ``name`` depends on by way of a gradient, back to the model's results."""
    needed, chosen = {name}, []
    for statement in reversed(before):
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
            continue
        stored = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if stored & needed:
            chosen.append(statement)
            read = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            if isinstance(statement, ast.AugAssign):
                read |= stored
            else:
                needed -= stored
            needed |= {n for n in read - results if _has_history(values.get(n))}
    return chosen[::-1]


def _has_history(value: Any) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None
