"""A recurrent network on the same digits: backpropagation through time is the same recursion on an unrolled graph."""

from __future__ import annotations

from typing import Any

from memograd.recipes.images import train_digits
from memograd.recipes.models import SimpleRNN
from memograd.recipes.settings import Settings


def train(settings: Settings) -> dict[str, Any]:
    """10 epochs of Adam, learning rate 0.003, batches of 64."""
    return train_digits("rnn", SimpleRNN, settings.or_else(epochs=10, lr=0.003, batch_size=64, seed=0))
