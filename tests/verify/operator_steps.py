"""PyTorch's test database of operators as training steps: a sample's floating-point arguments are the parameters of a
small module, the others are baked, and the loss is the sum of all results times fixed weights.

One step of ``mg.TrainStep`` against one of plain PyTorch: the parameters afterwards are compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from memograd.errors import GradientMismatchError, MemogradError
from memograd.train.step import TrainStep
from memograd.transforms.check import check_transforms
from memograd.transforms.vjp import vjp
from memograd.verify.sweep import Tally, closer, compare, flat_function, plain_random, pulled_back

Tensor = torch.Tensor
Optimizer = Callable[[Any], torch.optim.Optimizer]

_SEED = 12345

OPTIMIZERS: dict[str, Optimizer] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


class Operator(nn.Module):
    """A function of tensors as a module that holds them and returns a loss."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], tensors: list[Tensor]) -> None:
        super().__init__()
        self.function = [function]  # not a part of the module's state
        self.points = nn.ParameterList([t.clone() for t in tensors])

    def forward(self) -> Tensor:
        total: Any = 0.0
        for y in self.function[0](*self.points):
            total = total + (y * weights(y)).sum()
        return total


def weights(y: Tensor) -> Tensor:
    """Of each number of a result another one."""
    return torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).reshape(y.shape)


def sweep(ops: Iterable[Any], optimizer: str, limit: int | None = None, seed: int = 0) -> Iterator[Tally]:
    """One tally for each entry of op_db in double precision; ``limit`` samples of each at most, drawn by ``seed``."""
    for op in ops:
        torch.manual_seed(seed)
        tally = Tally(op.name + (f".{op.variant_test_name}" if op.variant_test_name else ""))
        samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
        if limit is not None and len(samples) > limit:
            samples = random.Random(f"{seed} {tally.name}").sample(samples, limit)
        with plain_random():
            for sample in samples:
                _count(tally, *flat_function(op, sample), OPTIMIZERS[optimizer])
        yield tally


def _count(tally: Tally, function: Any, tensors: list[Tensor], optimizer: Optimizer) -> None:
    if not tensors or any(t.layout is not torch.strided or t.is_complex() for t in tensors):
        return
    theirs, ours = Operator(function, tensors), Operator(function, tensors)
    if not _trained(theirs, optimizer):
        return
    torch.manual_seed(_SEED)
    try:
        TrainStep(ours, None, optimizer(ours.parameters()))()
    except GradientMismatchError as error:
        _settle(tally, str(error), function, tensors)
        return
    except Exception as error:
        crash = "" if isinstance(error, MemogradError) else "CRASH "
        tally.refused += 1
        tally.reasons[f"{crash}{type(error).__name__}: {error}"] += 1
        return
    problem = compare(list(ours.parameters()), list(theirs.parameters()), list(theirs.parameters()), 1e-6)
    if problem is None:
        tally.passed += 1
    else:
        _settle(tally, f"parameter: {problem}", function, tensors)


def _settle(tally: Tally, problem: str, function: Any, tensors: list[Tensor]) -> None:
    """Central differences decide who is mistaken, also where the step refused to differ from autograd."""
    if _autograd_is_mistaken(function, tensors):
        tally.disputed += 1
        tally.passed += 1
    else:
        tally.wrong += 1
        tally.reasons[f"WRONG {problem}"] += 1


def _trained(model: Operator, optimizer: Optimizer) -> bool:
    """One step of plain PyTorch; false where it cannot, or has no real loss to go down."""
    update = optimizer(model.parameters())
    torch.manual_seed(_SEED)
    try:
        loss = model()
        if loss.is_complex() or not loss.requires_grad:
            return False
        loss.backward()
        update.step()
    except Exception:  # autograd itself cannot
        return False
    return all(torch.isfinite(p).all() for p in model.parameters())


def _autograd_is_mistaken(function: Any, tensors: list[Tensor]) -> bool:
    """Whether central differences agree with our gradient and contradict autograd's."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    torch.manual_seed(_SEED)
    outs = function(*leaves)
    cotangents = tuple(weights(y) for y in outs)
    theirs = pulled_back(outs, leaves, cotangents, create_graph=False)
    if theirs is None:
        return False
    torch.manual_seed(_SEED)
    with check_transforms(False):  # what is wrong is to be counted, not raised
        ours = vjp(function, *tensors)[1](cotangents)
    return closer(function, tensors, cotangents, ours, theirs)
