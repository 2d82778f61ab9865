"""The lecture's convolutional network on handwritten digits."""

from __future__ import annotations

from typing import Any

from memograd.recipes.images import train_digits
from memograd.recipes.models import SimpleCNN
from memograd.recipes.settings import Settings


def train(settings: Settings) -> dict[str, Any]:
    """10 epochs of Adam, learning rate 0.001, batches of 64."""
    return train_digits("cnn", SimpleCNN, settings.or_else(epochs=10, lr=0.001, batch_size=64, seed=0))
