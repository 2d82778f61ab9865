"""A model whose gradients are not finite for a batch of zeros, and are for others; a CPU that is taken for an
accelerator, which nobody waits for."""

import pytest
import torch
from torch import nn

from memograd import finite


class Root(nn.Module):
    """The square root of something that is 0 for a batch of zeros: its derivative is infinite there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = (x - x.mean(0) * self.scale).pow(2).sum(1).sqrt()
        return self.inner(x).sum(1) + distance


class Event:
    """Stands for one of a device that is asynchronous: what was queued is there after ``synchronize``."""

    waits = 0  # of all of them

    def __init__(self, device: torch.device) -> None:
        self.there = False

    def record(self) -> None: ...

    def query(self) -> bool:
        return self.there

    def synchronize(self) -> None:
        Event.waits += 1
        self.there = True


def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers on the CPU count as out of sight, but those of no dimension where they are written."""
    Event.waits = 0
    monkeypatch.setattr(finite.torch, "Event", Event)
    monkeypatch.setattr(finite, "_PINNED", False)
    monkeypatch.setattr(finite, "lies_on_cpu", lambda values: False)
    monkeypatch.setattr(finite, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(finite, "_on_the_host", lambda tensor: tensor.dim() == 0)
