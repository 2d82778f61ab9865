"""What there is to run, in order, and how long it may take. Nothing is imported before it runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Part(NamedTuple):
    """``where``: module and function. ``most``, ``least``: the seconds that it may take, and those that it needs."""

    where: str
    most: float
    least: float

    def load(self) -> Callable[[Any, Any], None]:
        module, _, function = self.where.partition(":")
        return getattr(importlib.import_module(f"on_gpu.{module}"), function)


# First what is worth most. The operators come last: PyTorch's testing library, which has them, changes settings.
PARTS = {
    "programs": Part("derivatives:programs", 40, 3),
    "modules": Part("corners:modules", 40, 3),
    "optimizers": Part("corners:optimizers", 20, 3),
    "generators": Part("chance:generators", 20, 3),
    "lecture": Part("training:lecture", 30, 5),
    "corners": Part("corners:odds_and_ends", 20, 3),
    "half": Part("training:half", 60, 15),
    "budgets": Part("memory:budgets", 110, 20),
    "fused": Part("memory:fused", 70, 20),
    "times": Part("speed:times", 90, 20),
    "operators": Part("derivatives:operators", 90, 40),
}


def limit(name: str, following: list[str], left: float, stretch: float = 1.0) -> float:
    """The seconds that a part may take: the parts behind it keep the least that they must have."""
    return min(stretch * PARTS[name].most, left - sum(PARTS[other].least for other in following))
