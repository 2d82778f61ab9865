"""A neural differential equation by the solvers of torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, image


class _Flow(nn.Module):
    """A neural differential equation."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
        self.adjoint = options.pop("adjoint", False)
        self.options = options

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        import torchdiffeq

        times = torch.linspace(0, 1, 3, dtype=y.dtype)
        if not self.adjoint:
            return torchdiffeq.odeint(lambda t, y: self.field(y) * (1 + t), y, times, **self.options)

        parameters = tuple(self.field.parameters())
        options = {"adjoint_params": parameters, **self.options}
        return torchdiffeq.odeint_adjoint(lambda t, y: self.field(y) * (1 + t), y, times, **options)


def _flow(**options: Any) -> Case:
    return Case(_Flow(**options).double(), (image(4, 3),))


MODELS: dict[str, Callable[[], Case]] = {
    "rk4": lambda: _flow(method="rk4"),
    "euler, steps": lambda: _flow(method="euler", options={"step_size": 0.1}),
    "midpoint": lambda: _flow(method="midpoint"),
    "dopri5": lambda: _flow(method="dopri5", rtol=1e-3, atol=1e-3),
    "bosh3": lambda: _flow(method="bosh3", rtol=1e-3, atol=1e-3),
    "adaptive_heun": lambda: _flow(method="adaptive_heun", rtol=1e-3, atol=1e-3),
    "explicit_adams": lambda: _flow(method="explicit_adams", options={"step_size": 0.1}),
    "rk4, adjoint": lambda: _flow(method="rk4", adjoint=True),
    "dopri5, adjoint": lambda: _flow(method="dopri5", rtol=1e-3, atol=1e-3, adjoint=True),
}
