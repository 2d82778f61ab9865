"""The lecture's three training steps, for PyTorch; the batches are random, the shapes are those of the recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn, optim


class SimpleNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(2, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sigmoid(self.fc2(self.relu(self.fc1(x))))


class SimpleCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.fc1 = nn.Linear(32 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc1(self.pool(self.relu(self.conv1(x))).view(-1, 32 * 14 * 14))


class RowReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 64, batch_first=True)
        self.out = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0][:, -1])


@dataclass(frozen=True)
class Workload:
    """One training step: what to build and on which batch to run it."""

    name: str
    model: Callable[[], nn.Module]
    criterion: nn.Module
    optimizer: Callable[[Iterator[nn.Parameter]], optim.Optimizer]
    x: torch.Tensor
    y: torch.Tensor
    steps: int  # per timing: enough for about 0.1 s


def lecture_workloads() -> list[Workload]:
    generator = torch.Generator().manual_seed(0)
    xor = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.randint(10, (64,), generator=generator)
    images = torch.rand(64, 1, 28, 28, generator=generator)

    def sgd(p: Iterator[nn.Parameter]) -> optim.Optimizer:
        return optim.SGD(p, lr=0.1)

    def adam(p: Iterator[nn.Parameter]) -> optim.Optimizer:
        return optim.Adam(p, lr=0.001)

    answers = (xor.sum(1, keepdim=True) == 1).float()
    return [
        Workload("XOR", SimpleNN, nn.BCELoss(), sgd, xor, answers, 1000),
        Workload("CNN, batch 64", SimpleCNN, nn.CrossEntropyLoss(), adam, images, labels, 20),
        Workload("LSTM, batch 64", RowReader, nn.CrossEntropyLoss(), adam, images.squeeze(1), labels, 20),
    ]
