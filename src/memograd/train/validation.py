"""Loss and metrics on data that are not trained on: plain PyTorch, eval mode, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from memograd.errors import DataError
from memograd.train.arguments import number as number_in
from memograd.train.batches import Batches, size_of, told
from memograd.train.modes import evaluating
from memograd.train.objective import loss_in

Metric = Callable[[torch.Tensor, torch.Tensor], Any]


@dataclass(frozen=True)
class Validation:
    """A model in eval mode over a loader, measured.

    Attributes:
        metrics: by name, of ``(output, target)``; None: accuracy, where targets are class numbers.
        precision: what the model runs in (``TrainStep.precision``).
    """

    model: nn.Module
    criterion: Callable[..., Any] | None
    metrics: Mapping[str, Metric] | None
    batches: Batches
    precision: Callable[[], AbstractContextManager[Any]]

    def __call__(self, loader: Iterable[Any]) -> dict[str, float]:
        """Mean loss and metrics over ``loader``, by name.

        Raises:
            DataError: it gives no batches, or batches of another form.
        """
        sums: dict[str, float] = {}
        count = 0
        with evaluating(self.model):
            for number, batch in enumerate(loader, 1):
                where = f"validation batch {number}"
                args, kwargs = self.batches.arguments(batch, where)
                with self.precision(), told(where):
                    values = self._judge(args, kwargs)
                size = size_of(batch)
                count += size
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + number_in(value, name) * size
        if not count:
            raise DataError("the validation loader gave no batches")
        return {f"validation_{name}": total / count for name, total in sums.items()}

    def _judge(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Loss and metrics of one validation batch."""
        if self.criterion is None:
            out = self.model(*args, **kwargs)
            return {"loss": loss_in(out)}
        output, target = self.model(*args[:-1]), args[-1]
        metrics = self.metrics
        if metrics is None:
            metrics = {"accuracy": accuracy} if _is_classification(output, target) else {}
        judged = {name: metric(output, target) for name, metric in metrics.items()}
        return {"loss": loss_in(self.criterion(output, target))} | judged


def accuracy(output: torch.Tensor, target: torch.Tensor) -> float:
    """Share of right answers, for outputs ``[N, classes, ...]`` and class numbers ``[N, ...]``."""
    return (output.argmax(1) == target).double().mean().item()


def _is_classification(output: Any, target: Any) -> bool:
    tensors = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    return tensors and not target.is_floating_point() and output.shape[:1] + output.shape[2:] == target.shape
