"""What to write where a program chooses: behind ``torch.where`` both ways are computed and differentiated; a mask may
leave nothing of a row."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan import repair, source
from memograd.doctor.nan.evidence import plain, readers
from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.remedy import Remedy, line_of, operator_of
from memograd.doctor.nan.replay import Step
from memograd.graph.bindings import name_of

Tensor = torch.Tensor
aten = torch.ops.aten
_LOWEST = "clamp_min(torch.finfo(torch.float32).min)"


def of_trap(step: Step, name: str, node: fx.Node) -> Iterator[Remedy]:
    """The operand made safe before the operator, by the condition that chooses behind it."""
    choice = _choice_behind(node)
    if choice is None:
        return
    where, branch = choice
    condition: Any = where.args[0]
    position = 1 if name in ("div", "true_divide") else 0

    def changed(others: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        new = list(args)
        x = new[position]
        ones = torch.ones_like(x)
        new[position] = torch.where(others[0], x, ones) if branch == 1 else torch.where(others[0], ones, x)
        return operator_of(node)(*new, **kwargs)

    chosen = source.argument(line_of(where), {"where"}, 0) or "condition"
    names = {name, "/", "div", "divide"} if position else {name, "**" if name == "pow" else name}

    def safe(call: Any) -> Any:
        old = source.operand(call, position)
        if old is None:
            return None
        x = ast.unparse(old)
        one = f"torch.where({chosen}, {x}, 1.0)" if branch == 1 else f"torch.where({chosen}, 1.0, {x})"
        return source.with_operand(call, position, source.parsed(one))

    code = source.edited(line_of(node), names, safe)
    what = plain(name_of(node.target))
    safely = f"x = torch.where({chosen}, {'x, 1.0' if branch == 1 else '1.0, x'})  # before {what}: safe, then computed"
    yield Remedy(code or safely, lambda: repair.with_operator(step, node, changed, (condition,)))


def _choice_behind(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The ``where`` that chooses between what ``node`` gives and something else, and in which place that stands."""
    for value, user in readers(node):
        if getattr(user.target, "overloadpacket", None) is aten.where:
            args: Any = user.args
            if value in args[1:]:
                return user, args.index(value)
    return None


def of_read_mask(step: Step, node: fx.Node) -> Iterator[Remedy]:
    """What is masked, with a number that is low and no more."""

    def low(*args: Any, **kwargs: Any) -> Any:
        return operator_of(node)(*args, **kwargs).clamp(-1e4, 1e4)

    code = "a finite number in the mask (-1e4 in place of -inf), or leave the masked elements out of what adds them up"
    yield Remedy(code, lambda: repair.with_operator(step, node, low))


def of_mask(step: Step, producer: Producer, node: fx.Node) -> Iterator[Remedy]:
    """A finite number in the place of -inf: a row without anything left is then uniform."""
    written = producer.written
    target = getattr(getattr(written, "target", None), "overloadpacket", None)
    if written is not None and written.op == "call_function" and target is aten.masked_fill:

        def filled(x: Tensor, mask: Tensor, value: Any) -> Tensor:
            return torch.masked_fill(x, mask, torch.finfo(x.dtype).min)

        def change(call: Any) -> Any:
            return source.with_operand(call, 2, source.parsed("torch.finfo(torch.float32).min"))

        code = source.edited(line_of(written), {"masked_fill", "masked_fill_"}, change)
        yield Remedy(code or "torch.finfo(scores.dtype).min in place of -inf in the mask",
                     lambda: repair.with_operator(step, written, filled))  # fmt: skip
    code = source.on_operand(line_of(node), {"softmax", "log_softmax", "logsumexp"}, 0, _LOWEST)

    def lowest(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return operator_of(node)(x.clamp_min(torch.finfo(x.dtype).min), *args, **kwargs)

    general = "let no row of the mask be masked altogether, or write torch.finfo(dtype).min into it in place of -inf"
    yield Remedy(code or general, lambda: repair.with_operator(step, node, lowest))
