"""A step of the user's own loop, watched: are gradients forgotten, doubled, taken over by nobody?

The step is called twice, and everything is put back. What PyTorch's optimizer is about to use is compared with the
gradient of that batch at those parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from memograd.doctor.report import Finding, Where
from memograd.doctor.updates import as_it_was
from memograd.tracing.undisturbed import Contents, Generators, taken_back

# A sum of two gradients beside one of them is apart by its own size; rounding and dropout are below a tenth of that.
_CLOSE = 0.1
Gradients = dict[str, torch.Tensor]


class _Watched:
    """What optimizers are about to use, each time one is stepped."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.used: list[Gradients] = []
        self.optimizers: list[torch.optim.Optimizer] = []

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(n, p) for n, p in self.model.named_parameters() if id(p) in held]
        self.used.append({n: p.grad.detach().clone() for n, p in named if p.grad is not None})
        if optimizer not in self.optimizers:
            self.optimizers.append(optimizer)


def usage(
    step: Callable[..., Any],
    model: nn.Module,
    args: tuple[Any, ...],
    optimizer: torch.optim.Optimizer | None,
    gradient: Callable[[], Gradients],
) -> list[Finding]:
    """Call ``step(*args)`` twice. ``gradient()`` is that of the batch at the parameters of the moment."""
    drawn, held = Generators(model), [*model.parameters(), *model.buffers()]
    contents, before = Contents(held), {p: p.grad for p in model.parameters()}
    watched = _Watched(model)
    handle = register_optimizer_step_pre_hook(watched)
    try:
        for p in before:
            p.grad = None
        with taken_back(model), _restored(optimizer):
            step(*args)
            moved = any(contents.changed({n: p for n, p in model.named_parameters()}))
            first = len(watched.used)
            fresh = gradient()
            left = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
            step(*args)
            return _judged(watched, first, fresh, left, moved)
    finally:
        handle.remove()
        contents.put_back()
        for p, grad in before.items():
            p.grad = grad
        drawn.put_back()


def _restored(optimizer: torch.optim.Optimizer | None) -> Any:
    from contextlib import nullcontext

    return nullcontext() if optimizer is None else as_it_was(optimizer)


def _judged(watched: _Watched, first: int, fresh: Gradients, left: Gradients, moved: bool) -> list[Finding]:
    where = Where(phase="update")
    if not watched.used:
        what = "no optimizer was stepped: parameters stay as they are"
        fix = "optimizer.step() behind loss.backward()"
        return [Finding("error", "no step", what, where, (), fix)]
    if not any(watched.used):
        what = "the optimizer is stepped with no gradient at all: .grad of everything it holds is None"
        fix = "loss.backward() belongs between optimizer.zero_grad() and optimizer.step()"
        return [Finding("error", "no gradients at the step", what, where, (), fix)]
    if len(watched.used) <= first:
        return []
    used = watched.used[first]
    both = {n: g + left[n] for n, g in fresh.items() if n in left}
    if left and _apart(used, both) < _CLOSE < _apart(used, fresh):
        what = "the second step uses the sum of both batches' gradients: .grad is never cleared"
        evidence = (
            f"what the optimizer uses is {_apart(used, both):.1e} from the sum of the gradients of two steps",
            f"and {_apart(used, fresh):.2g} from this batch's own gradient (as shares of their size)",
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
    """The distance of two gradients, as a share of the second one."""
    names = [n for n in b if n in a]
    if not names:
        return float("inf")
    distance = sum((a[n].double() - b[n].double()).square().sum().item() for n in names) ** 0.5
    size = sum(b[n].double().square().sum().item() for n in names) ** 0.5
    return distance / size if size else (0.0 if distance == 0 else float("inf"))
