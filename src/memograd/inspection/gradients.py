"""Our gradients beside ``torch.autograd``'s, and both beside difference quotients of PyTorch's own forward pass.

Difference quotients are a witness that shares nothing with either. They are taken in float64, along random directions
of everything that is differentiated at once: a slope of the loss is one number, and a wrong gradient anywhere shows in
it. They see what gradients do not: numbers that go on where a gradient is stopped, a backward that is not its
forward's derivative, kinks. So they differ with reason in some programs, which is said and is no error; what differs
from autograd beyond rounding is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import has_data, pytree
from memograd.graph.graph import Graph
from memograd.inspection.program import Inspected
from memograd.inspection.report import Direction, Finding, Gradients
from memograd.tracing.functions import Application
from memograd.tracing.undisturbed import Generators
from memograd.verify.blame import inner
from memograd.witness.agreement import FLOAT64, Precision, Results, largest
from memograd.witness.trial import Trial, mismatch
from memograd.witness.widened import Widened

Tensor = torch.Tensor
_WAYS = 2  # directions
_STEPS = (1e-5, 1e-6, 1e-7)  # the first is best where the loss is smooth; a shorter one meets fewer kinks
_CLOSE = 1e-4
_NOISE = 1e-7  # of the loss: what its rounding leaves in a quotient
_ADVICE = "Please report it; until it is mended, give the operator a rule with @memograd.rule, or use PyTorch alone"


def gradients(
    inspected: Inspected, joint: Graph, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Generators
) -> tuple[Gradients, list[Finding]]:
    """The numbers, and what is to be said of them."""
    flat = [x.detach() for x in joint.bind(args, kwargs)]
    if not all(map(has_data, flat)):
        return Gradients(why_not="the arguments or parameters have no data"), []
    trial = Trial(inspected.program, args, kwargs, inspected.graph, joint, flat, drawn)
    try:
        theirs = trial.theirs()
    except Exception as error:
        return Gradients(why_not=f"PyTorch cannot run it: {_said(error)}"), _raised_by_both(trial, error)
    ours = trial.ours()
    share, name, count = _apart(ours, theirs)
    if wrong := trial.wrong(ours, theirs):
        error = mismatch(wrong, trial.culprit(wrong, theirs), _ADVICE)
        finding = Finding("error", "wrong gradient", str(error), names=tuple(inspected.named(w.name) for w in wrong))
        return Gradients(count, share, inspected.named(name)), [finding]
    try:
        directions = tuple(_directions(trial))
    except Exception as error:
        why = f"with differences, in float64: {_said(error)}"
        return Gradients(count, share, inspected.named(name), why_not=why), []
    return Gradients(count, share, inspected.named(name), directions), _explained(inspected, directions)


def _raised_by_both(trial: Trial, error: Exception) -> list[Finding]:
    """What PyTorch raised, if the graph raises, too: traces take what kernels refuse (two precisions in a product, a
    class that there is not)."""
    try:
        trial.ours()
    except Exception:
        return [Finding("error", "the program raises", _said(error))]
    return []


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _apart(ours: Results, theirs: Results) -> tuple[float, str, int]:
    """The largest difference, as a share of its gradient's largest element; whose it is; how many were compared."""
    distances = [(0.0, "")]
    for name, gradient in theirs.gradients.items():
        mine = ours.gradients.get(name)
        if gradient is not None and mine is not None:
            scale = max(largest(gradient), 1e-3 * theirs.largest)
            distances.append((largest(mine.double() - gradient.double()) / scale if scale else 0.0, name))
    return *max(distances), len(distances) - 1


# -- slopes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Along:
    """The program in float64, moved along one direction."""

    trial: Trial
    way: Mapping[str, Tensor]
    at: float  # the loss where it starts
    precision: Precision  # of our gradients

    def slope(self, results: Results) -> float:
        """By gradients."""
        pairs = [(g, self.way[name]) for name, g in results.gradients.items() if g is not None]
        return sum(inner(g, v.to(g.dtype)).item() for g, v in pairs)

    def loss(self, step: float) -> float:
        moved = {name: step * v for name, v in self.way.items()}
        return self.trial.theirs(wide=True, moved=moved, derive=_loss_alone).loss.item()

    def quotients(self, step: float) -> tuple[float, float]:
        """Ahead and behind."""
        return (self.loss(step) - self.at) / step, (self.at - self.loss(-step)) / step


def _loss_alone(out: Any, sources: Mapping[str, Tensor]) -> Any:
    return next(x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)), {}, {}


def _directions(trial: Trial) -> Iterator[Direction]:
    theirs, precision = trial.theirs(wide=True), FLOAT64
    try:
        with Widened():
            ours = trial.ours()
    except RuntimeError:  # a kernel that knows no float64, in a graph that was captured in another precision
        ours, precision = trial.ours(), trial.precision
    generator = torch.Generator().manual_seed(0)
    inputs = {i.name: t for i, t in zip(trial.joint.inputs, trial.flat, strict=True)}
    moving = [name for name, g in theirs.gradients.items() if g is not None]  # what is stopped entirely stays
    for _ in range(_WAYS):
        way = {name: _random(inputs[name], generator) for name in moving}
        yield _direction(_Along(trial, way, theirs.loss.item(), precision), ours, theirs)


def _random(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers about as large as those of ``tensor``."""
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    size = tensor.detach().abs().to(torch.float64).square().mean().sqrt().item() if tensor.numel() else 1.0
    way = torch.randn(tensor.shape, dtype=dtype, generator=generator).to(tensor.device)
    return way * (size or 1.0)


def _direction(along: _Along, ours: Results, theirs: Results) -> Direction:
    mine, autograd = along.slope(ours), along.slope(theirs)
    tried: list[Direction] = []
    for step in _STEPS:
        ahead, behind = along.quotients(step)
        middle = (ahead + behind) / 2
        close = max(_CLOSE, along.precision.loose) if along.precision is not FLOAT64 else _CLOSE
        agrees = abs(middle - mine) <= close * max(abs(middle), abs(mine)) + _NOISE * abs(along.at)
        tried.append(Direction(mine, autograd, middle, ahead, behind, agrees, along.precision.name))
        if agrees:
            break
    return tried[-1] if tried[-1].agrees else min(tried, key=lambda d: abs(d.differences - mine))


# -- what differs with reason ----------------------------------------------------------------------------------------


def _explained(inspected: Inspected, directions: tuple[Direction, ...]) -> list[Finding]:
    apart = [d for d in directions if not d.agrees]
    if not apart:
        return []
    worst = max(apart, key=lambda d: abs(d.differences - d.ours))
    says = (
        f"along a random direction the loss changes by {worst.differences:.6g} (central differences in float64), and "
        f"its gradient, ours and autograd's, says {worst.ours:.6g}"
    )
    for reason, advice, severity in _reasons(inspected, worst):
        return [Finding(severity, "differs from differences", f"{says}. {reason}", advice)]
    advice = "Compare in smaller parts (mg.testing.check_grads), or at another point"
    reason = "Nothing in the program explains it: a badly conditioned computation, or a wrong derivative in PyTorch too"
    return [Finding("warning", "differs from differences", f"{says}. {reason}", advice)]


def _reasons(inspected: Inspected, worst: Direction) -> Iterator[tuple[str, str, Any]]:
    calls = [n for n in inspected.graph.nodes if isinstance(n.target, Application) and n in inspected.active]
    if inspected.is_stopped:
        yield "That is what the stopped gradients named above are for", "", "note"
    if calls:
        names = ", ".join(sorted({f"{n.target.name} ({n.target.source})" for n in calls}))  # pyright: ignore
        advice = "Check it with torch.autograd.gradcheck, if it is meant to be the derivative"
        yield f"A backward that is not its forward's derivative does this: {names}", advice, "warning"
    low, high = sorted((worst.ahead, worst.behind))
    slack = _CLOSE * max(abs(low), abs(high))
    if high - low > 10 * slack and low - slack <= worst.ours <= high + slack:
        yield f"It has a kink just here: {worst.ahead:.6g} ahead, {worst.behind:.6g} behind", "", "note"
