"""What a step differentiates: a model and its criterion as one module that returns the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


class Objective(nn.Module):
    """(inputs..., target) -> loss. With no criterion the model returns the loss (or something with ``.loss``, or a dict
    with a ``"loss"``)."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *batch: Any, **options: Any) -> Any:
        if self.criterion is not None:
            return self.criterion(self.model(*batch[:-1], **options), batch[-1])
        return loss_in(self.model(*batch, **options))

    __call__ = forward  # hooks for every module there is are none for this one


def loss_in(out: Any) -> Any:
    """The loss in what a model returns: its ``.loss``, what a dict holds as ``"loss"``, or all of it."""
    loss = getattr(out, "loss", None)
    if loss is None and isinstance(out, Mapping):
        loss = out.get("loss")
    return out if loss is None else loss
