"""The loop that training scripts have, in plain PyTorch: the witness for everything a step does besides the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def with_everything() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double()


def batches(count: int, rows: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    x = [3 * torch.randn(rows, 6, generator=g, dtype=torch.float64) for _ in range(count)]
    return [(one, torch.randint(0, 3, (rows,), generator=g)) for one in x]


def schedule(optimizer: optim.Optimizer) -> Any:
    return optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def trained_by_torch(
    model: nn.Module,
    optimizer: optim.Optimizer,
    data: Iterable[Any],
    clip_grad_norm: float | None = None,
    norm_type: float = 2.0,
    clip_grad_value: float | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    autocast: torch.dtype | None = None,
) -> dict[str, Any]:
    """Losses, norms, weights, averages and optimizer state."""
    data, scheduler = list(data), schedule(optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay)) if ema_decay is not None else None
    torch.manual_seed(5)
    losses, norms = [], []
    for number, (x, y) in enumerate(data, 1):
        with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
            loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.detach())
        (loss / accumulate).backward()
        if number % accumulate and number < len(data):
            continue
        if clip_grad_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), clip_grad_value)
        if clip_grad_norm is not None:
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm, norm_type))
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if average is not None:
            average.update_parameters(model)
    return summary(model, optimizer, losses, norms, average.module.state_dict() if average is not None else {})


def summary(model: nn.Module, optimizer: optim.Optimizer, losses: Any, norms: Any, average: Any) -> dict[str, Any]:
    return {
        "losses": torch.stack(losses),
        "norms": torch.stack(norms) if norms else torch.zeros(0),
        "weights": model.state_dict(),
        "average": dict(average),
        "state": optimizer.state_dict()["state"],
    }


def same(ours: dict[str, Any], theirs: dict[str, Any], rtol: float = 1e-9, atol: float = 1e-12) -> None:
    near = {"rtol": rtol, "atol": atol, "check_dtype": False}
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, msg=lambda m, k=key: f"{k}: {m}", **near)
    torch.testing.assert_close(ours["losses"], theirs["losses"], rtol=max(1e-10, rtol / 10), atol=0)
