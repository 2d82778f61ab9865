"""A step of the user's own loop, watched: are gradients forgotten, doubled, taken over by nobody?

The step is called twice, and everything is put back. What PyTorch's optimizer is about to use is compared with the
gradient of that batch at those parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from memograd._torch import pytree
from memograd.doctor.report import Finding, Where
from memograd.doctor.updates import as_it_was
from memograd.errors import OptionError
from memograd.tracing.undisturbed import Contents, Generators, taken_back

# Clipping scales, and a step may draw before its model does: a gradient is never quite the one that is expected. What
# was not cleared is as large as a gradient itself, so the nearer of the two by far is the one.
_NEARER = 0.5
Gradients = dict[str, torch.Tensor]


class _Watched:
    """What optimizers are about to use, each time one is stepped. ``before``: where it is left how each of them is."""

    def __init__(self, model: nn.Module, before: ExitStack) -> None:
        self.model, self.before = model, before
        self.used: list[Gradients] = []
        self.optimizers: list[torch.optim.Optimizer] = []

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(n, p) for n, p in self.model.named_parameters() if id(p) in held]
        self.used.append({n: p.grad.detach().clone() for n, p in named if p.grad is not None})
        if optimizer not in self.optimizers:
            self.optimizers.append(optimizer)
            self.before.enter_context(as_it_was(optimizer))


def usage(
    step: Callable[..., Any],
    model: Callable[..., Any],
    args: tuple[Any, ...],
    gradient: Callable[[], Gradients],
) -> list[Finding]:
    """Call ``step(*args)`` twice. ``gradient()`` is that of the batch at the parameters of the moment; generators stand
    behind it where they stood for it, so that a step draws the same."""
    if not isinstance(model, nn.Module):
        raise OptionError("step= is watched by the parameters of a model, and this is a function: hand over the model")
    given = [t for t in pytree.tree_leaves(args) if isinstance(t, torch.Tensor)]
    drawn, held = Generators(model), [*model.parameters(), *model.buffers(), *given]
    contents, before = Contents(held), {p: p.grad for p in model.parameters()}
    with ExitStack() as stack:
        watched = _Watched(model, stack)
        stack.callback(register_optimizer_step_pre_hook(watched).remove)
        stack.callback(_as_before, contents, before, drawn)
        for p in before:
            p.grad = None
        with taken_back(model):
            step(*args)
            moved = any(contents.changed({n: p for n, p in model.named_parameters()}))
            first = len(watched.used)
            left = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
            fresh = gradient()
            step(*args)
            return _judged(watched, first, fresh, left, moved)


def _as_before(contents: Contents, gradients: dict[nn.Parameter, Any], drawn: Generators) -> None:
    contents.put_back()
    for p, gradient in gradients.items():
        p.grad = gradient
    drawn.put_back()


def _judged(watched: _Watched, first: int, fresh: Gradients, left: Gradients, moved: bool) -> list[Finding]:
    where = Where(phase="update")
    if not watched.used:
        what = "no optimizer was stepped: parameters stay as they are"
        fix = "optimizer.step() behind loss.backward()"
        return [Finding("error", "no step", what, where, (), fix)]
    if not any(watched.used):
        if moved:  # by gradients that are nobody's .grad (mg.TrainStep)
            return []
        what = "the optimizer is stepped with no gradient at all: .grad of everything it holds is None"
        fix = "loss.backward() belongs between optimizer.zero_grad() and optimizer.step()"
        return [Finding("error", "no gradients at the step", what, where, (), fix)]
    if not first or len(watched.used) <= first:  # several calls make one step: gradients are to be added up
        return []
    used = watched.used[first]
    both = {n: g + left[n] for n, g in fresh.items() if n in left}
    if left and _apart(used, both) < _NEARER * _apart(used, fresh):
        what = "the second step uses the sum of both batches' gradients: .grad is never cleared"
        evidence = (
            f"what the optimizer uses is {_apart(used, both):.1e} away from the sum of the gradients of two steps",
            f"and {_apart(used, fresh):.1e} away from this batch's own gradient",
        )
        fix = "optimizer.zero_grad() in front of loss.backward()"
        return [Finding("error", "forgotten zero_grad", what, where, evidence, fix)]
    if not moved:
        what = "no parameter changes by a step"
        fix = "Is the learning rate 0? Does the optimizer hold this model's parameters?"
        return [Finding("error", "nothing moves", what, where, (), fix)]
    if fresh and all(not g.count_nonzero() for g in used.values()) and any(g.count_nonzero() for g in fresh.values()):
        what = "the optimizer is stepped with gradients of zero: they are cleared between backward() and step()"
        fix = "zero_grad(), loss.backward(), step(): in this order"
        return [Finding("error", "gradients cleared too early", what, where, (), fix)]
    return []


def _apart(a: Gradients, b: Gradients) -> float:
    """The distance of two gradients."""
    names = [n for n in b if n in a]
    if not names:
        return float("inf")
    return sum((a[n].double() - b[n].double()).square().sum().item() for n in names) ** 0.5
