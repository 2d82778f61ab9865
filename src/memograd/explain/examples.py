"""The lecture's networks with one sample each, for ``memograd explain``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd.recipes import data
from memograd.recipes.models import SimpleCNN, SimpleNN, SimpleRNN

Example = tuple[nn.Module, Callable[..., Any], tuple[torch.Tensor, ...]]


def example(name: str, sample: int = 1, seed: int = 5) -> Example:
    """A network with the weights it starts from, its criterion, and one line of its data: (model, criterion, args).

    Raises:
        DataError: the digits of ``cnn`` and ``rnn`` are not installed.
    """
    torch.manual_seed(seed)
    if name == "xor":
        xs, ys = data.xor(torch.float64)
        return SimpleNN().double(), nn.BCELoss(), (xs[sample : sample + 1], ys[sample : sample + 1])
    model = SimpleCNN() if name == "cnn" else SimpleRNN()
    digits = data.digits()
    return model, nn.CrossEntropyLoss(), (digits.test_x[sample : sample + 1], digits.test_y[sample : sample + 1])
