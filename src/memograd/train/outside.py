"""Steps whose optimizer is called: gradients go into ``.grad``, PyTorch clips, updates and averages. So do hooks want
it, and optimizers that have no update rule in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memograd import autocast
from memograd._torch import has_hooks
from memograd.train.build import Training
from memograd.train.program import Program

Tensor = torch.Tensor


def update(training: Training, program: Program, results: Sequence[Tensor]) -> None:
    """Call the user's optimizer on our gradients; parameters without one get None, as autograd leaves them."""
    training.optimizer.zero_grad(set_to_none=True)
    with autocast.off():
        for parameter, position in reversed(program.gradients):  # the last layers first, as a backward pass has them
            _hand(parameter, results[position])
        _update(training)


def gather(training: Training, program: Program, results: Sequence[Tensor]) -> None:
    """Add gradients up where hooks want to see that: ``.grad`` is the sum while they run."""
    carried, trained = training.carried, set(training.trained)
    for parameter, position in reversed(program.gradients):
        gradient = results[position] / training.refinements.accumulate
        if parameter not in trained:  # somebody's hooks wait for it
            with autocast.off():
                _hand(parameter, gradient)
            continue
        total = carried.sum_of(parameter)
        parameter.grad = total if parameter in carried.gathered else None
        with autocast.off():
            _hand(parameter, gradient)
        if parameter.grad is None:  # a hook has used it up
            total.zero_()
            carried.gathered.pop(parameter, None)
        else:
            if parameter.grad is not total:
                total.copy_(parameter.grad)
            carried.gathered[parameter] = None
        parameter.grad = None


def update_with_sums(training: Training) -> None:
    """The same as ``update`` with what has been gathered."""
    carried = training.carried
    training.optimizer.zero_grad(set_to_none=True)
    for parameter in carried.gathered:
        parameter.grad = carried.sum_of(parameter)
    with autocast.off():
        _update(training)


def _hand(parameter: Tensor, gradient: Tensor) -> None:
    if has_hooks(parameter):
        torch.autograd.backward([parameter], [gradient])  # hands a leaf its gradient, and runs its hooks
    else:
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _update(training: Training) -> None:
    optimizer, carried = training.optimizer, training.carried
    clip = training.refinements.clip
    if clip and (norm := clip.by_torch([p for group in optimizer.param_groups for p in group["params"]])) is not None:
        carried.norm = carried.norm_of([norm]).copy_(norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    carried.update_averages()
