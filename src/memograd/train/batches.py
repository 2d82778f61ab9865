"""What a data loader gives, as arguments of a step or of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import DataError, MemogradError, with_notes


@dataclass(frozen=True)
class Batches:
    """How batches of a loader become arguments of a step.

    Attributes:
        labelled: each batch ends with a target, for a criterion.
        device: where its tensors are moved; None leaves them.
    """

    labelled: bool
    device: str | torch.device | None = None

    def arguments(self, batch: Any, where: str) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the step for one batch, on the device."""
        for tensor in pytree.tree_leaves(batch):
            is_data = isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.is_floating_point()
            if is_data and bool(tensor.isnan().any()):
                raise DataError(f"{where}: the data contain NaN; remove or replace those values (the weights are kept)")
        if self.device is not None:
            batch = pytree.tree_map_only(torch.Tensor, lambda t: t.to(self.device, non_blocking=True), batch)
        if not self.labelled:
            if isinstance(batch, Mapping):
                return [], dict(batch)
            return (list(batch) if isinstance(batch, (tuple, list)) else [batch]), {}
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise DataError(f"{where}: the dataloader must yield (inputs, target), but it gave {_kind(batch)}")
        return list(batch), {}


@contextmanager
def told(where: str) -> Iterator[None]:
    """Errors of PyTorch's operators come out with the batch they happened at."""
    try:
        yield
    except (MemogradError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where}: {with_notes(error)}") from error


def size_of(batch: Any) -> int:
    """Number of samples: the first dimension of the first tensor."""
    first = next((t for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor)), None)
    return first.shape[0] if first is not None and first.dim() else 1


def _kind(batch: Any) -> str:
    return f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else type(batch).__name__
