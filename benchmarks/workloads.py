"""Training steps to be timed, for PyTorch: the lecture's three, whose shapes are those of the recipes, and larger ones.
The batches are random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    optimizer: Callable[..., optim.Optimizer]  # of the parameters, and of options for torch.optim
    x: torch.Tensor
    y: torch.Tensor
    steps: int  # per timing: enough for about 0.1 s


def sgd(p: Iterator[nn.Parameter], **options: Any) -> optim.Optimizer:
    return optim.SGD(p, lr=0.1, **options)


def adam(p: Iterator[nn.Parameter], **options: Any) -> optim.Optimizer:
    return optim.Adam(p, lr=0.001, **options)


def adamw(p: Iterator[nn.Parameter], **options: Any) -> optim.Optimizer:
    return optim.AdamW(p, lr=0.001, **options)


def lecture_workloads() -> list[Workload]:
    generator = torch.Generator().manual_seed(0)
    xor = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.randint(10, (64,), generator=generator)
    images = torch.rand(64, 1, 28, 28, generator=generator)

    answers = (xor.sum(1, keepdim=True) == 1).float()
    return [
        Workload("XOR", SimpleNN, nn.BCELoss(), sgd, xor, answers, 1000),
        Workload("CNN, batch 64", SimpleCNN, nn.CrossEntropyLoss(), adam, images, labels, 20),
        Workload("LSTM, batch 64", RowReader, nn.CrossEntropyLoss(), adam, images.squeeze(1), labels, 20),
    ]


def every_workload() -> list[Workload]:
    """The lecture's, and what people train beyond it."""
    from networks import UNet, gpt2, resnet  # transformers is slow to import

    generator = torch.Generator().manual_seed(0)
    features, classes = torch.rand(64, 64, generator=generator), torch.randint(10, (64,), generator=generator)
    images, labels = torch.randn(8, 3, 96, 96, generator=generator), torch.randint(10, (8,), generator=generator)
    tokens, targets = (torch.randn(8, 128, 256, generator=generator) for _ in range(2))
    scenes, parts = torch.randn(8, 3, 64, 64, generator=generator), torch.randint(2, (8, 64, 64), generator=generator)
    loss = nn.CrossEntropyLoss()
    return [
        *lecture_workloads(),
        Workload("MLP 64-128-128-10, batch 64", _mlp, loss, adam, features, classes, 100),
        Workload("ResNet-18, 96 px, batch 8", partial(resnet, (2, 2, 2, 2), False), loss, adam, images, labels, 2),
        Workload("U-Net, 64 px, batch 8", UNet, loss, adam, scenes, parts, 2),
        Workload(
            "GPT-2, 4 x 256, batch 8 x 128", partial(gpt2, "none", 4, 256), nn.MSELoss(), adamw, tokens, targets, 2
        ),
    ]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
