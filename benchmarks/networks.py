"""Networks whose activations are worth a budget, each as a stack of blocks so that they can be checkpointed the usual
ways: not at all, each block, or sqrt(n) segments (``torch.utils.checkpoint``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Stack(nn.Module):
    """Blocks one behind the other; ``mode`` is ``none``, ``each`` or ``sqrt``."""

    def __init__(self, *blocks: nn.Module, mode: str = "none") -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.mode = mode

    def forward(self, x: Any) -> Any:
        if self.mode == "sqrt":
            return checkpoint_sequential(self.blocks, max(1, math.isqrt(len(self.blocks))), x, use_reentrant=False)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.mode == "each" else block(x)
        return x


class UNet(nn.Module):
    """Ronneberger et al. 2015 in small: double convolutions, three resolutions, skip connections."""

    def __init__(self, width: int = 16, mode: str = "none") -> None:
        super().__init__()
        self.mode = mode
        self.down = nn.ModuleList([_double(3, width), _double(width, 2 * width), _double(2 * width, 4 * width)])
        self.middle = _double(4 * width, 8 * width)
        self.up = nn.ModuleList(
            [_double(12 * width, 4 * width), _double(6 * width, 2 * width), _double(3 * width, width)]
        )
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = self._block(block, x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self._block(self.middle, x)
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2)
            x = self._block(block, torch.cat([x, skips.pop()], 1))
        return self.head(x)

    def _block(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return block(x) if self.mode == "none" else checkpoint(block, x, use_reentrant=False)


def _double(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
        nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class TimeSteps(nn.Module):
    """Some steps of an LSTM cell over (frames, h, c)."""

    def __init__(self, cell: nn.LSTMCell, first: int, stop: int) -> None:
        super().__init__()
        self.cell, self.first, self.stop = cell, first, stop

    def forward(self, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Any:
        frames, h, c = state
        for t in range(self.first, self.stop):
            h, c = self.cell(frames[t], (h, c))
        return frames, h, c


class Recurrent(nn.Module):
    """An LSTM over 200 steps, written out; checkpointed in segments of 10 (``each``) or 14 steps (``sqrt``)."""

    def __init__(self, steps: int = 200, width: int = 64, mode: str = "none") -> None:
        super().__init__()
        cell = nn.LSTMCell(32, width)
        length = {"none": steps, "each": 10, "sqrt": math.isqrt(steps)}[mode]
        cuts = [*range(0, steps, length), steps]
        blocks = [TimeSteps(cell, a, b) for a, b in pairwise(cuts)]
        self.stack = Stack(*blocks, mode="none" if mode == "none" else "each")
        self.head = nn.Linear(width, 10)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = x.new_zeros(x.shape[1], self.width)
        return self.head(self.stack((x, zero, zero))[1])


class Hidden(nn.Module):
    """A GPT-2 block from tensor to tensor."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.block(x)
        return out[0] if isinstance(out, tuple) else out


class Residual(nn.Module):
    """The block of He et al. 2016, figure 5: two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels."""

    def __init__(self, inside: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outside = 4 * width if bottleneck else width
        shapes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        widths = [inside, width, width, outside] if bottleneck else [inside, width, outside]
        layers: list[nn.Module] = []
        for (kernel, step), (a, b) in zip(shapes, pairwise(widths), strict=True):
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.same: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.same = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.same(x) + self.branch(x))


def resnet(depths: tuple[int, ...], bottleneck: bool, mode: str = "none") -> nn.Module:
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
    )
    blocks: list[nn.Module] = []
    inside = 64
    for level, depth in enumerate(depths):
        width = 64 * 2**level
        for k in range(depth):
            blocks.append(Residual(inside, width, 2 if level and not k else 1, bottleneck))
            inside = 4 * width if bottleneck else width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))
    return Stack(stem, *blocks, head, mode=mode)


def _vgg(mode: str) -> nn.Module:
    """Configuration A of Simonyan & Zisserman 2015 with one linear layer behind it."""
    blocks: list[nn.Module] = []
    inside = 3
    for width, pool in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        layers = [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
        blocks.append(nn.Sequential(*layers))
        inside = width
    return Stack(*blocks, nn.Sequential(nn.Flatten(), nn.Linear(512 * 4, 10)), mode=mode)


def gpt2(mode: str, depth: int = 8, width: int = 128) -> nn.Module:
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    config = GPT2Config(n_layer=depth, n_embd=width, n_head=4, n_positions=128)
    blocks = [Hidden(GPT2Block(config, layer_idx=i)) for i in range(depth)]
    return Stack(*blocks, nn.LayerNorm(width), mode=mode)


@dataclass(frozen=True)
class Network:
    """``make(mode)`` builds it; ``batch()`` is what it trains on."""

    make: Callable[[str], nn.Module]
    criterion: nn.Module
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]


def _images(count: int, size: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: (torch.randn(count, 3, size, size), torch.randint(0, 10, (count,)))


NETWORKS: dict[str, Network] = {
    "resnet18": Network(lambda mode: resnet((2, 2, 2, 2), False, mode), nn.CrossEntropyLoss(), _images(32, 64)),
    "resnet50": Network(lambda mode: resnet((3, 4, 6, 3), True, mode), nn.CrossEntropyLoss(), _images(32, 64)),
    "vgg11": Network(_vgg, nn.CrossEntropyLoss(), _images(32, 64)),
    "unet": Network(
        lambda mode: UNet(mode=mode),
        nn.CrossEntropyLoss(),
        lambda: (torch.randn(8, 3, 64, 64), torch.randint(0, 2, (8, 64, 64))),
    ),
    "gpt2": Network(gpt2, nn.MSELoss(), lambda: (torch.randn(16, 128, 128), torch.randn(16, 128, 128))),
    "lstm200": Network(
        lambda mode: Recurrent(mode=mode),
        nn.CrossEntropyLoss(),
        lambda: (torch.randn(200, 64, 32), torch.randint(0, 10, (64,))),
    ),
}
