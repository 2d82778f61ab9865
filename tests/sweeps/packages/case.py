"""A model with what it is called with, as the files beside this one build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree


def mean_square(output: Any) -> torch.Tensor:
    """A loss for any model: the mean squares of all its results, added up."""
    leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return torch.stack([x.square().mean() for x in leaves]).sum()


@dataclass
class Case:
    """``loss(model(*args, **kwargs))`` is what one trains."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    loss: Callable[[Any], torch.Tensor] = mean_square
    tolerance: float = 1e-8  # where the model is one of float32 only, larger
    default: torch.dtype = torch.float32  # of what the model makes itself as it runs


def in_double(make: Callable[[], Case]) -> Case:
    """The case of a package whose models make tensors of the default type wherever they need some."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return replace(make(), default=torch.float64)
    finally:
        torch.set_default_dtype(before)


class Whole(nn.Module):
    """Model and loss as one module, for steps that take the loss from the model."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.loss(self.model(*args, **kwargs))


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def entropy(*classes: int) -> Callable[[Any], torch.Tensor]:
    """Cross-entropy of a classifier's first result, or of all where there are auxiliary ones."""
    labels = torch.tensor(classes)

    def loss(output: Any) -> torch.Tensor:
        logits = [x for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]
        return torch.stack([nn.functional.cross_entropy(x, labels) for x in logits]).sum()

    return loss
