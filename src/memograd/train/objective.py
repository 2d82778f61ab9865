"""What a step differentiates: a model and its criterion as one module that returns the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from memograd.errors import DataError


class Objective(nn.Module):
    """(inputs..., target) -> loss. With no criterion the model returns the loss (or something with ``.loss``, or a dict
    with a ``"loss"``)."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *batch: Any, **options: Any) -> Any:
        if self.criterion is not None:
            return against_target(self.criterion, self.model, batch, options)
        return loss_in(self.model(*batch, **options))

    __call__ = forward  # hooks for every module there is are none for this one


def against_target(
    criterion: Callable[..., Any], model: Callable[..., Any], batch: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """What ``criterion`` says of the model's result and the target, which is the last of the batch."""
    if not batch:
        raise DataError(
            "there is no batch: where a criterion is set the arguments are (*inputs, target), and it is called with "
            "what the model returns and the target. A model that returns its loss itself needs no criterion"
        )
    return criterion(model(*batch[:-1], **options), batch[-1])


def loss_in(out: Any) -> Any:
    """The loss in what a model returns: its ``.loss``, what a dict holds as ``"loss"``, or all of it."""
    loss = getattr(out, "loss", None)
    if loss is None and isinstance(out, Mapping):
        loss = out.get("loss")
    return out if loss is None else loss
