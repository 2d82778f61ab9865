"""A model whose gradients are not finite for a batch of zeros, and are for others."""

import torch
from torch import nn


class Root(nn.Module):
    """The square root of something that is 0 for a batch of zeros: its derivative is infinite there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        distance = (x - x.mean(0) * self.scale).pow(2).sum(1).sqrt()
        return self.inner(x).sum(1) + distance
