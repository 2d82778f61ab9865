"""What a preflight differentiates: a model or a function, made to return one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.train.arguments import refuse_criterion
from memograd.train.objective import against_target, loss_in
from memograd.train.planning import takes_target

PREFIX = "model."  # what the names of a model's parameters and modules begin with in an objective


class Loss(nn.Module):
    """``model`` with a loss behind it; without one what the model returns is weighted and added up."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _loss(self.model, self.criterion, args, kwargs)

    __call__ = forward  # hooks for every module there is are none for this one


def loss_of(f: Callable[..., Any], criterion: Callable[..., Any] | None) -> Callable[..., Any]:
    """``f`` and ``criterion`` as one program that returns one number.

    Raises:
        GraphError: one of them cannot be called.
    """
    if not callable(f):
        raise GraphError(f"expected a module or a function, got {type(f).__name__}")
    refuse_criterion(criterion)
    if isinstance(f, nn.Module):
        return Loss(f, criterion)

    def loss(*args: Any, **kwargs: Any) -> Any:
        return _loss(f, criterion, args, kwargs)

    return loss


def _loss(f: Callable[..., Any], criterion: Callable[..., Any] | None, args: Any, kwargs: Any) -> Any:
    if criterion is None:
        out = f(*args, **kwargs)
    elif takes_target(criterion):
        out = against_target(criterion, f, args, kwargs)
    else:
        out = criterion(f(*args, **kwargs))
    return _one_number(loss_in(out))


def _one_number(out: Any) -> Any:
    if isinstance(out, torch.Tensor) and out.numel() == 1 and out.is_floating_point():
        return out
    results = [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor) and x.requires_grad]
    sums = [_weighted(x) for x in results]
    return sum(sums[1:], sums[0]) if sums else torch.zeros(())


def _weighted(x: torch.Tensor) -> torch.Tensor:
    """A sum to which no two elements add alike: the plain sum of a softmax has no derivative to compare."""
    x = torch.view_as_real(x) if x.is_complex() else x
    weights = torch.linspace(0.5, 1.5, max(x.numel(), 1), dtype=torch.float64, device=x.device)[: x.numel()]
    return (x * weights.to(x.dtype).reshape(x.shape)).sum()
