"""Small networks of many kinds, each with its criterion, optimizer and a batch: what the budget tests train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, optim
from training_steps import Mixed

Case = tuple[nn.Module, Any, optim.Optimizer, tuple[torch.Tensor, ...]]


class Residual(nn.Module):
    """A residual network with BatchNorm."""

    def __init__(self, depth: int = 2, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up, and a skip connection at each resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)])
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ModuleList([nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for conv in self.down:
            x = torch.relu(conv(x))
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.middle(x))
        for conv in self.up:
            x = nn.functional.interpolate(x, scale_factor=2)
            x = torch.relu(conv(torch.cat([x, skips.pop()], 1)))
        return x


class Decoder(nn.Module):
    """A small language model: causal attention, dropout, tied embedding."""

    def __init__(self, depth: int = 1, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embed(tokens), mask=mask, is_causal=True)).flatten(0, 1)


class Recurrent(nn.Module):
    """An LSTM cell over time, written out."""

    def __init__(self, steps: int = 6) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], 16)
        for frame in x:
            h, c = self.cell(frame, (h, c))
        return self.head(h)


class Autocast(nn.Module):
    """Half of the step in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.net(x)
        return y.float()


def _labels(count: int, classes: int) -> torch.Tensor:
    return torch.randint(0, classes, (count,))


def mlp() -> Case:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.2)) for _ in range(8)])
    return model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), (torch.randn(512, 64), torch.randn(512, 64))


def mixed() -> Case:
    model = Mixed()
    return model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), (torch.randn(32, 3, 16, 16), _labels(32, 4))


def residual() -> Case:
    model = Residual()
    batch = (torch.randn(8, 3, 24, 24), _labels(8, 10))
    return model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batch


def unet() -> Case:
    model = UNet()
    return model, nn.MSELoss(), optim.AdamW(model.parameters()), (torch.randn(4, 3, 32, 32), torch.randn(4, 4, 32, 32))


def decoder() -> Case:
    model = Decoder()
    return (
        model,
        nn.CrossEntropyLoss(),
        optim.AdamW(model.parameters()),
        (torch.randint(0, 50, (8, 24)), _labels(192, 50)),
    )


def recurrent() -> Case:
    model = Recurrent()
    return model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), (torch.randn(6, 64, 8), _labels(64, 4))


def autocast() -> Case:
    model = Autocast()
    return model, nn.MSELoss(), optim.Adam(model.parameters()), (torch.randn(256, 64), torch.randn(256, 64))


def outside() -> Case:
    """An optimizer that is not part of the graph."""
    model = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.SiLU()) for _ in range(6)])
    return model, nn.MSELoss(), optim.RMSprop(model.parameters()), (torch.randn(512, 32), torch.randn(512, 32))


CASES: dict[str, Callable[[], Case]] = {
    f.__name__: f for f in (mlp, mixed, residual, unet, decoder, recurrent, autocast, outside)
}
