"""What a step differentiates: a model and its criterion as one module that returns the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from memograd.errors import DataError, GraphError
from memograd.graph.graph import Graph
from memograd.graph.reach import ancestors


class Objective(nn.Module):
    """(inputs..., target) -> loss. With no criterion the model returns the loss. Either may return something with a
    ``.loss``, or a dict with a ``"loss"``."""

    def __init__(self, model: nn.Module, criterion: Callable[..., Any] | None) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, *batch: Any, **options: Any) -> Any:
        if self.criterion is not None:
            return loss_in(against_target(self.criterion, self.model, batch, options))
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
    """The loss in what a model or a criterion returns: its ``.loss``, what a dict holds as ``"loss"``, or all of it."""
    loss = getattr(out, "loss", None)
    if loss is None and isinstance(out, Mapping):
        loss = out.get("loss")
    return out if loss is None else loss


def refuse_other_losses(forward: Graph) -> None:
    """Raises GraphError where the first result of ``forward`` has no gradient, or is not the only one that could be the
    loss: another number that the parameters move, and that is no part of the first, would be left out silently."""
    results = [(o, r) for o, r in zip(forward.outputs, forward.results, strict=True) if o.kind == "output"]
    if not results:
        return
    (first, loss), *others = results
    value = loss.meta["val"]
    if not value.is_floating_point() or value.numel() != 1:
        return  # who differentiates it says so
    if not first.tracked:
        raise GraphError(
            "the loss depends on no parameter that requires a gradient: it was detached (.detach(), .item(), "
            "no_grad), or is a constant"
        )
    parts = ancestors([loss]) if others else set()
    rest = [r for o, r in others if o.tracked and r.meta["val"].dim() == 0 and r not in parts]
    if rest:
        raise GraphError(
            f"the model or criterion returns {len(rest) + 1} numbers that could be the loss, and only the first one "
            f"would be trained on (another one comes from {rest[0].meta.get('source', '?')}): return their sum, alone "
            "or first, or as 'loss' in a dict; what is only to be looked at, detached"
        )
