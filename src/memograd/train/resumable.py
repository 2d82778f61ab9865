"""A run that can be stopped and taken up again: what is in its checkpoint, whoever trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn, optim

from memograd.errors import DataError
from memograd.train import checkpoint

_OWN = {"model": dict, "optimizer": dict, "optimizer_type": str, "settings": dict}


@dataclass(frozen=True)
class Resumable:
    """A run and the folder from which it can be taken up again.

    Attributes:
        folder: where the checkpoint is.
        settings: what must not change between a run and its resumption.
    """

    folder: Path
    model: nn.Module
    optimizer: optim.Optimizer
    settings: Mapping[str, Any]

    def take_up(
        self, others: Mapping[str, type] | None = None, ahead: Callable[[dict[str, Any]], None] = lambda saved: None
    ) -> dict[str, Any] | None:
        """What ``save`` wrote, weights and optimizer state put in place; None where there is no checkpoint.

        Args:
            others: what else must be in it, of which kind.
            ahead: is given it before anything is put in place, and raises DataError where it does not fit.

        Raises:
            DataError: it is damaged, or of another run; nothing has changed then.
        """
        saved = checkpoint.load(self.folder)
        if saved is None:
            return None
        checkpoint.require(self.folder, saved, {**_OWN, **(others or {})})
        for name, value in self.settings.items():
            before = saved["settings"].get(name)
            if before != value:
                raise DataError(
                    f"the run in {self.folder} was made with {name} = {before}, not {value}; resume it with the same "
                    "settings, or choose another folder"
                )
        ahead(saved)
        checkpoint.restore(self.folder, saved, self.model, self.optimizer)
        return saved

    def save(self, **state: Any) -> None:
        """Write the checkpoint: weights, optimizer state, and ``state``."""
        own = {
            "model": self.model.state_dict(keep_vars=True),  # keeps the identity of tied weights
            "optimizer": self.optimizer.state_dict(),
            "optimizer_type": type(self.optimizer).__name__,
            "settings": dict(self.settings),
        }
        checkpoint.save(self.folder, {**own, **state})
