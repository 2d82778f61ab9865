"""A gradient of zeros and no gradient are two things to an optimizer (weight decay): where autograd has which."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import memograd as mg

Program = Callable[[torch.Tensor], torch.Tensor]


def pulled_back(f: Program) -> Program:
    """The first derivative, squared and summed up."""

    def penalty(x: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    return penalty


def pooled(name: str, x: torch.Tensor) -> torch.Tensor:
    return getattr(F, name)(x, 2)


TARGETS = torch.tensor([0, 2, 1])
POOLING = {
    "max_pool1d": (3, 2, 6),
    "max_pool2d": (1, 2, 6, 6),
    "max_pool3d": (1, 2, 4, 4, 4),
    "adaptive_max_pool1d": (1, 2, 6),
    "adaptive_max_pool2d": (1, 2, 6, 6),
    "adaptive_max_pool3d": (1, 2, 4, 4, 4),
    "avg_pool1d": (3, 2, 6),
    "avg_pool2d": (1, 2, 6, 6),
    "avg_pool3d": (1, 2, 4, 4, 4),
    "adaptive_avg_pool1d": (1, 2, 6),
    "adaptive_avg_pool2d": (1, 2, 6, 6),
    "adaptive_avg_pool3d": (1, 2, 4, 4, 4),
}
PROGRAMS: dict[str, tuple[Program, tuple[int, ...]]] = {
    **{name: (pulled_back(partial(pooled, name)), size) for name, size in POOLING.items()},
    "fractional_max_pool2d": (pulled_back(lambda x: F.fractional_max_pool2d(x, 2, 3)), (1, 2, 6, 6)),
    "fractional_max_pool3d": (pulled_back(lambda x: F.fractional_max_pool3d(x, 2, 2)), (1, 2, 4, 4, 4)),
    "relu": (pulled_back(F.relu), (3, 4)),
    "nll_loss": (pulled_back(lambda x: F.nll_loss(x, TARGETS)), (3, 4)),
    "nll_loss2d": (pulled_back(lambda x: F.nll_loss(x, TARGETS.expand(2, 2, 3))), (2, 4, 2, 3)),
    "reflection_pad2d": (pulled_back(lambda x: F.pad(x, (1, 1, 1, 1), "reflect")), (1, 2, 4, 4)),
    "floor": (lambda x: x.floor().sum(), (3, 4)),
    "detach": (lambda x: x.detach().sum(), (3, 4)),
    "norm of order 0": (lambda x: torch.linalg.vector_norm(x, 0), (3, 4)),
    "norm of order 0 along rows": (lambda x: torch.linalg.vector_norm(x, 0, 1).sum(), (3, 4)),
    "norm of order 0 in a given dtype": (lambda x: torch.norm(x, 0, 1, dtype=torch.float64).sum(), (3, 4)),
    "ormqr of no matrices": (lambda x: torch.ormqr(x, x[..., 0].detach(), x.detach()).sum(), (0, 5, 5)),
    "householder_product of no matrices": (lambda x: torch.linalg.householder_product(x, x[..., 0]).sum(), (0, 5, 5)),
    "norm of order 0, torch.norm": (lambda x: x.norm(0, dim=1).sum(), (3, 4)),
}


class Model(nn.Module):
    """One parameter that the program decides about, beside one that is always trained."""

    def __init__(self, program: Program, size: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.program = program
        self.weight, self.other = (nn.Parameter(torch.randn(size, dtype=torch.float64)) for _ in range(2))

    def forward(self) -> torch.Tensor:
        return self.program(self.weight) + self.other.square().sum()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_parameter_is_trained_where_autograd_has_zeros_for_it_and_left_where_it_has_none(name: str) -> None:
    ours, theirs = Model(*PROGRAMS[name]), Model(*PROGRAMS[name])
    optimizer = optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        theirs().backward()
        optimizer.step()
    step = mg.TrainStep(ours, None, optim.AdamW(ours.parameters(), lr=0.1, weight_decay=0.5), backend="eager")
    for _ in range(2):
        step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    assert (theirs.weight.grad is None) == torch.equal(ours.weight, Model(*PROGRAMS[name]).weight)
