"""Functions with a backward of their own and the like, for programs to call."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["Clipped", "Cubed", "Reversed", "Straight", "checkpoint"]


class Straight(torch.autograd.Function):
    """Rounds forward and lets gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, adjoint: torch.Tensor) -> torch.Tensor:
        return adjoint


class Reversed(torch.autograd.Function):
    """Scales gradients by a negative number: adversarial adaptation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, adjoint: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.scale * adjoint, None


class Cubed(torch.autograd.Function):
    """Saves its argument and its result; its backward can be differentiated."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, adjoint: torch.Tensor) -> torch.Tensor:
        x, y = ctx.saved_tensors
        return 3 * x**2 * adjoint + 0 * y * adjoint


class Clipped(torch.autograd.Function):
    """Two results, one of which is not differentiable; clips gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = x.abs() < 1
        ctx.mark_non_differentiable(inside)
        ctx.save_for_backward(inside)
        return x.clamp(-1, 1), inside

    @staticmethod
    def backward(ctx: Any, adjoint: torch.Tensor, _: Any) -> torch.Tensor:
        (inside,) = ctx.saved_tensors
        return (adjoint * inside).clamp(-2, 2)
