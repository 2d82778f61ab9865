"""The operator that did it: the first one with finite operands and a result that is not, and that reaches the loss or a
gradient. Not those that pass it on; not a NaN behind ``torch.where``, nor -inf in a mask.

Where somebody has written -inf down (a mask), it is no fault yet: the first operator that makes NaN of it is to blame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan.replay import Run, Step, as_it_was, bad_positions, mended
from memograd.doctor.probes import tensors_in
from memograd.graph.reach import ancestors

aten = torch.ops.aten
_MOST = 100  # births that are tried one by one
_HALVES = 20  # runs to find the element

# Operators that write a number down, or pass on what somebody has written down.
_WRITTEN = frozenset(
    {
        aten.full,
        aten.full_like,
        aten.new_full,
        aten.fill,
        aten.scalar_tensor,
        aten.masked_fill,
        aten.where,
        aten.lift_fresh_copy,
        aten._to_copy,
        aten.constant_pad_nd,
        aten.scatter,
        aten.index_put,
    }
)


@dataclass(frozen=True)
class Producer:
    """Who did it.

    Attributes:
        node: the operator, or the input that was not finite when the step began.
        args, kwargs, value: what it ran on, and what came of it.
        positions: of what is not finite there, flat; ``position``: of an element that alone spoils the step.
        written: the operator (or input) that wrote -inf down on purpose, of which ``node`` makes NaN.
        turn: the first operator that makes NaN of an infinity that ``node`` has produced.
        target: the loss, or the gradient, that it spoils.
        run: of the step in which nothing else is wrong.
        before: the step as it was.
        beside: masks and the like, harmless by themselves, without which ``node`` would be finite.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any
    positions: torch.Tensor
    position: int
    written: fx.Node | None
    turn: fx.Node | None
    target: fx.Node
    run: Run
    before: Run
    beside: tuple[fx.Node, ...] = ()

    @property
    def alone(self) -> tuple[fx.Node, ...]:
        """What stays as it is where everything else is made finite (``replay.mended``)."""
        return (self.written or self.node, *self.beside)

    @property
    def is_input(self) -> bool:
        return self.node.op == "placeholder"

    @property
    def is_backward(self) -> bool:
        return "adjoint_of" in self.node.meta

    @property
    def tensor(self) -> torch.Tensor:
        """The result that is not finite."""
        return next(t for t in tensors_in(self.value) if bad_positions(t).numel())

    @property
    def index(self) -> tuple[int, ...]:
        """Of the element that alone spoils the step."""
        return tuple(int(i) for i in torch.unravel_index(torch.tensor(self.position), self.tensor.shape))

    def operand(self, value: Any) -> Any:
        """The element of an operand that meets the producer's element, where the operator is one of elements; else
        None."""
        if not isinstance(value, torch.Tensor):
            return value
        try:
            return value.broadcast_to(self.tensor.shape)[self.index].item()
        except RuntimeError:
            return None


def producer_of(step: Step) -> Producer | None:
    """Who makes the step's loss, or else a gradient, NaN or infinite; None where the step, run again, is finite."""
    before = as_it_was(step)
    spoiled = before.spoils(step.targets)
    if not spoiled:
        return None
    targets = [n for n in spoiled if n in step.losses] or spoiled
    births = list(mended(step, ()).births)
    harmless: list[fx.Node] = []
    for birth in _worth_trying(step, births, targets):
        run = mended(step, (birth,))
        if reached := run.spoils(targets):
            return _described(step, birth, reached[0], run, before)
        harmless.append(birth)
    # A harmless one may leave finite numbers behind it that another operator cannot take: -inf, a softmax, log(0).
    for birth in list(mended(step, harmless).births)[:_MOST]:
        beside = tuple(n for n in harmless if n is not birth)
        if birth not in births and (reached := (run := mended(step, (birth, *beside))).spoils(targets)):
            return _described(step, birth, reached[0], run, before, beside)
    run = mended(step, births)  # none of them alone: the first of all together
    return _described(step, births[0], (run.spoils(targets) or targets)[0], run, before) if births else None


def _worth_trying(step: Step, births: Sequence[fx.Node], targets: Sequence[fx.Node]) -> list[fx.Node]:
    """Masks are many: where all of them together do no harm, none is tried alone."""
    masks = [n for n in births if is_written(n)]
    if len(masks) > 1 and not mended(step, masks).spoils(targets):
        births = [n for n in births if n not in set(masks)]
    return list(births[:_MOST])


def is_written(node: fx.Node) -> bool:
    """Whether what is infinite there was written down by somebody, or is an input that may be a mask."""
    if node.op == "placeholder":
        return True
    return getattr(node.target, "overloadpacket", None) in _WRITTEN


def _is_mask(step: Step, birth: fx.Node, turn: fx.Node) -> bool:
    """Whether -inf is meant there: it was written down; or computed of what no parameter takes part in (the logarithm
    of a mask), for a softmax."""
    if is_written(birth):
        return True
    kinds = {n: i.kind for n, i in zip(step.joint.placeholders, step.joint.inputs, strict=True)}
    trained = any(kinds.get(n) == "parameter" for n in ancestors([birth]))
    return not trained and "softmax" in getattr(turn.target, "__name__", "")


def _described(
    step: Step, birth: fx.Node, target: fx.Node, run: Run, before: Run, beside: tuple[fx.Node, ...] = ()
) -> Producer:
    alone = (birth, *beside)
    turn = run.turns[0] if run.turns else None
    on_purpose = turn is not None and _is_mask(step, birth, turn) and _only_minus_infinity(step, alone)
    node = turn if on_purpose and turn is not None else birth
    call = mended(step, alone, (node,)).calls[node]
    positions = bad_positions(call[2])
    if on_purpose:  # the operator takes them apart itself: NaN is what is wrong, not the -inf beside it
        nans = torch.cat([t.isnan().reshape(-1) for t in tensors_in(call[2])][:1]).nonzero().reshape(-1)
        positions = nans if nans.numel() else positions
        position = int(positions[0])
    else:
        position = _one_that_does_it(step, alone, positions, target)
    return Producer(
        node,
        *call,
        positions,
        position,
        birth if on_purpose else None,
        None if on_purpose else turn,
        target,
        run,
        before,
        beside,
    )


def _only_minus_infinity(step: Step, alone: tuple[fx.Node, ...]) -> bool:
    """Whether all that is not finite in the first of them is -inf, as in a mask."""
    value = mended(step, alone, alone[:1]).calls[alone[0]][2]
    bad = [t.reshape(-1)[bad_positions(t)] for t in tensors_in(value) if bad_positions(t).numel()]
    return all(bool((b == -math.inf).all()) for b in bad)


def _one_that_does_it(step: Step, alone: tuple[fx.Node, ...], positions: torch.Tensor, target: fx.Node) -> int:
    """The first element, by halves, that alone spoils ``target``; of the first of ``alone``."""
    for _ in range(_HALVES):
        if len(positions) == 1:
            break
        first, second = positions[: len(positions) // 2], positions[len(positions) // 2 :]
        if mended(step, alone, part=first).spoils([target]):
            positions = first
        elif mended(step, alone, part=second).spoils([target]):
            positions = second
        else:
            break  # it takes several
    return int(positions[0])


def way(producer: Producer) -> list[fx.Node]:
    """The operators from the producer to what it spoils, by the shortest way through what is not finite."""
    start = producer.written or producer.node
    before: dict[fx.Node, fx.Node | None] = {start: None}
    waiting = [start]
    for node in waiting:
        if node is producer.target:
            break
        for user in node.users:
            if user in producer.run.bad and user not in before:
                before[user] = node
                waiting.append(user)
    path: list[fx.Node] = []
    node: fx.Node | None = producer.target if producer.target in before else start
    while node is not None:
        path.append(node)
        node = before[node]
    return path[::-1]
