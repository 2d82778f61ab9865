"""One comparison of a differentiated program with PyTorch's own run of it.

``Trial.wrong`` says what differs beyond rounding. Where the first look leaves a doubt, it is settled by the strongest
witness at hand: in lower precision both sides run again in float64; in float64, or where that cannot be, PyTorch runs
again on parameters changed by as much as rounding changes them, and what moves as far as the difference is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch

from memograd._torch import without_dispatch_modes
from memograd.errors import GradientMismatchError, MemogradError
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.lower.lower import lower
from memograd.tracing.at_run_time import called_in_vain
from memograd.tracing.holders import Keyed
from memograd.tracing.templates import Run
from memograd.tracing.undisturbed import Generators
from memograd.witness.agreement import (
    FLOAT16,
    FLOAT64,
    Difference,
    Left,
    Precision,
    Results,
    differences,
    largest,
    number,
    precision_of,
)
from memograd.witness.autograd import by_autograd
from memograd.witness.blame import Watched, first_other_value, first_wrong_rule, guilty_stop, place, run_by_autograd
from memograd.witness.widened import Widened

_SINGLE = 2**-23
NUDGES = 4, 12, 36  # by how many roundings parameters are changed


@dataclass
class Trial:
    """A program, what it is called with, and the graphs made of it.

    Attributes:
        forward, joint: the program's graph, before and after it was differentiated.
        flat: the flat inputs of ``joint``, detached.
        drawn: where the generators start.
    """

    program: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    forward: Graph
    joint: Graph
    flat: Sequence[Any]
    drawn: Generators = field(default_factory=Generators)
    precision: Precision = field(init=False)

    def __post_init__(self) -> None:
        self.precision = precision_of(self.joint)
        self.function = lower(self.joint).function

    def theirs(self, **options: Any) -> Results:
        """PyTorch's results; nothing is left behind."""
        with without_dispatch_modes(of_users=False):
            return by_autograd(self.program, self.args, self.kwargs, self.joint, self.drawn, **options)

    def ours(self) -> Results:
        """Those of the joint graph, operator by operator. It writes to nothing, and what code of the user's leaves
        behind that it calls is taken back; the generators do not move. As in a step grad mode is what it is, though
        nothing requires gradients: some kernels ask."""
        with without_dispatch_modes(of_users=False), called_in_vain(self.joint), self.drawn.again():
            return self.named(run(self.function, self.flat))

    def named(self, results: Sequence[torch.Tensor]) -> Results:
        """The flat results of the joint graph by name; what it does not write to keeps what it holds."""
        outputs = self.joint.outputs
        gradients = {outputs[i].name: results[i] for i in self.joint.positions("gradient")}
        written = {i.name: t for i, t in zip(self.joint.inputs, self.flat, strict=True)}
        written |= {outputs[i].name: results[i] for i in self.joint.positions("mutation")}
        return Results(results[0], gradients, written, self._left(results))

    def _left(self, results: Sequence[torch.Tensor]) -> dict[tuple[int, Any], Left]:
        """What a run with these results leaves behind."""
        if not self.joint.effects:
            return {}
        inputs = {i.name: t for i, t in zip(self.joint.inputs, self.flat, strict=True)}
        this = Run([results[i] for i in self.joint.positions("left")], inputs)
        keyed = [e for e in self.joint.effects.effects if isinstance(e.holder, Keyed)]
        values = [(e, number(e.build(this))) for e in keyed]
        return {(id(e.holder.holder), e.key): Left(e.name, value) for e, value in values if value is not None}

    # -- verdict ---------------------------------------------------------------------------------------------------

    def wrong(self, ours: Results, theirs: Results) -> list[Difference]:
        """What differs by more than rounding explains."""
        doubts = list(differences(ours, theirs, self.precision.tight))
        if not doubts:
            return []
        if self.precision is not FLOAT64:
            try:
                others = self._in_float64()
            except Exception:  # an operator that knows no float64, no memory: there are other witnesses
                return self._beyond_rounding(doubts, theirs, self.precision.eps)
            if wrong := [d for d in doubts if d.what in others]:
                return wrong
            doubts = list(differences(ours, theirs, self.precision.loose))
            if self.precision is FLOAT16:
                doubts = [d for d in doubts if d.error < float("inf")]  # it overflows where a sum's order changes
        return self._beyond_rounding(doubts, theirs, self.precision.eps)

    def _in_float64(self) -> set[str]:
        """What differs when both sides compute in float64. A constant that the program makes there with all digits is
        in the graph with those of the lower precision, so this too must be more than that explains."""
        theirs = self.theirs(wide=True)
        with Widened():
            ours = self.ours()
        doubts = list(differences(ours, theirs, FLOAT64.loose))
        constants = [i.tensor for i in self.joint.inputs if i.kind == "constant" and i.tensor is not None]
        eps = max([torch.finfo(t.dtype).eps for t in constants if t.dtype.is_floating_point], default=0.0)
        return {d.what for d in self._beyond_rounding(doubts, theirs, max(eps, _SINGLE), wide=True)}

    def _beyond_rounding(
        self, doubts: list[Difference], theirs: Results, eps: float, wide: bool = False
    ) -> list[Difference]:
        """Those of ``doubts`` that are larger than what roundings of ``eps`` do to PyTorch's own results.

        A small change may be lost on the way (``sigmoid`` rounds it off), and then says nothing about what it did not
        move; a larger one does. In half precision that would be as large as a fault.
        """
        wrong: list[Difference] = []
        for nudge in NUDGES if eps <= _SINGLE else NUDGES[:1]:
            if not doubts:
                break
            moved = self.theirs(nudge=nudge * eps, wide=wide)
            by_what = {d.what: d.error for d in differences(moved, theirs, 0.0)}
            wrong += [d for d in doubts if d.what in by_what and d.error > _factor(eps) * by_what[d.what]]
            doubts = [d for d in doubts if d.what not in by_what]
        return [*wrong, *doubts]

    def noise(self, theirs: Results) -> dict[str, float]:
        """For each parameter how much of its gradient may be rounding, infinite where all of it is; for each other
        result, as ``Difference.what`` says it, how much of that."""
        eps, moves = self.precision.eps, dict.fromkeys(theirs.gradients, 0.0)
        others: dict[str, float] = {}  # the mean behind a normalization is nothing else
        for nudge in NUDGES:  # one alone may leave a rounding where it was
            for d in differences(self.theirs(nudge=nudge * eps), theirs, 0.0):
                if d.name in moves and d.what == f"{theirs.derivative} of {d.name!r}":
                    moves[d.name] = max(moves[d.name], _factor(eps) * d.error)
                else:
                    others[d.what] = max(others.get(d.what, 0.0), _factor(eps) * d.error)
        top = max(moves.values(), default=0.0)
        sizes = {name: 0.0 if g is None else largest(g) for name, g in theirs.gradients.items()}
        return others | {name: inf if sizes[name] <= top else move for name, move in moves.items()}

    # -- blame -----------------------------------------------------------------------------------------------------

    def demand(self, ours: Results, theirs: Results) -> None:
        """Raises GradientMismatchError where the two differ by more than rounding explains."""
        if wrong := self.wrong(ours, theirs):
            raise mismatch(wrong, self.culprit(wrong, theirs))

    def culprit(self, wrong: Sequence[Difference], theirs: Results) -> str:
        """Where the two part, as a sentence."""
        try:
            return self._culprit(wrong, theirs)
        except (MemogradError, RuntimeError, TypeError, ValueError) as error:
            return f"The operator to blame could not be told ({type(error).__name__})."

    def _culprit(self, wrong: Sequence[Difference], theirs: Results) -> str:
        watched, wrt = Watched(), self.joint.wrt
        values = any(not d.what.startswith("the gradient") for d in wrong)
        if values:
            self.theirs(watching=watched)
        with torch.enable_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            if values and (node := self._again(first_other_value, watched, self.precision.tight)):
                return f"The two part first at {place(node)}: its result is another one in the program."
            if node := self._again(guilty_stop, wrt, theirs, 3 * self.precision.tight):
                return f"The graph stops the gradient at {place(node)}, where PyTorch does not."
            if node := first_wrong_rule(self.forward, self._again(run_by_autograd, wrt)):
                return f"The two part first at {place(node)}: its rule gives other adjoints than torch.autograd."
        return (
            "No operator's rule is wrong by itself: what is wrong is the capture of the program, or a simplification."
        )

    def _again(self, look: Callable[..., Any], *how: Any) -> Any:
        """What ``look`` finds in the graph, with the same random numbers each time."""
        with self.drawn.again():
            return look(self.forward, self.flat, *how)


def _factor(eps: float) -> float:
    """How many times as far as roundings of ``eps`` move results they may lie apart; little is left to allow in half
    precision."""
    return 100.0 if eps <= _SINGLE else 3.0


_ADVICE = (
    "Nothing was overwritten: parameters, buffers, optimizer state and random generators are as before the call. "
    "Please report it; until it is mended, train this model in plain PyTorch, or give the operator a rule with "
    "@memograd.rule"
)


def mismatch(wrong: Sequence[Difference], culprit: str, advice: str = _ADVICE) -> GradientMismatchError:
    """The error for what differs, the largest difference first."""
    first, *others = sorted(wrong, key=lambda d: (bool(d.name), -d.share))
    more = f" (and {len(others)} more: {', '.join(d.what for d in others[:3])}{', ...' * (len(others) > 3)})"
    return GradientMismatchError(
        f"{first}{more if others else ''}. {culprit} {advice}",
        name=first.name,
        error=first.error,
    )
