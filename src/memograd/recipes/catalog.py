"""The networks of ``memograd train``, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memograd.recipes import cnn, rnn, xor
from memograd.recipes.settings import Settings

RECIPES: dict[str, Callable[[Settings], dict[str, Any]]] = {"xor": xor.train, "cnn": cnn.train, "rnn": rnn.train}


def train(name: str, settings: Settings) -> dict[str, Any]:
    """Run the recipe ``name``; returns what it measured, as in ``metrics.json``."""
    return RECIPES[name](settings)
