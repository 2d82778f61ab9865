"""The lecture's networks, and an LSTM in their spirit: ordinary modules that know nothing of memograd."""

from __future__ import annotations

import torch
from torch import nn


class SimpleNN(nn.Module):
    """2-2-1 with ReLU and sigmoid: the least network that computes XOR."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(2, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.fc1(x))
        return self.sigmoid(self.fc2(x))


class SimpleCNN(nn.Module):
    """One convolution, one pooling, one linear layer, for images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.fc1 = nn.Linear(32 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = x.view(-1, 32 * 14 * 14)
        return self.fc1(x)


class SimpleRNN(nn.Module):
    """An LSTM that reads an image row by row, 28 steps of 28 numbers, and answers after the last.

    The loop over time is written out: ``nn.LSTM`` would run as one fused kernel with a backward kernel of its own,
    and backpropagation through time would happen out of the recursion's sight.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(28, hidden)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.view(-1, 28, 28).unbind(1)
        h = c = x.new_zeros(len(x), self.cell.hidden_size)
        for row in rows:
            h, c = self.cell(row, (h, c))
        return self.fc(h)
