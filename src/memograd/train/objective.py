"""What a step differentiates: a model and its criterion as one module that returns the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Objective(nn.Module):
    """(inputs..., target) -> loss. With no criterion the model returns the loss (or something with ``.loss``)."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *batch: Any, **options: Any) -> Any:
        if self.criterion is not None:
            return self.criterion(self.model(*batch[:-1], **options), batch[-1])
        out = self.model(*batch, **options)
        return getattr(out, "loss", out)

    __call__ = forward  # hooks for every module there is are none for this one
