"""``mg.plan``: how a model's forward and backward pass fit a byte budget, before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd.memory.plan import Plan
from memograd.pipeline import capture_for, differentiate
from memograd.pipeline import plan as schedule
from memograd.train.arguments import refuse_criterion, refuse_no_module
from memograd.train.objective import Objective


class _LossOfOutput(nn.Module):
    """A loss that needs no target."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.loss(self.model(*args, **kwargs))


def plan(
    model: nn.Module,
    *args: Any,
    loss: Callable[..., Any] | None = None,
    memory_budget: int | str | Plan,
    **kwargs: Any,
) -> Plan:
    """Plan the forward and backward pass of ``model`` within a byte budget. Nothing is trained.

    Args:
        args, kwargs: what the model is called with; with a ``loss`` of two arguments the last of ``args`` is its
            target: ``loss(model(*args[:-1]), args[-1])``.
        loss: a criterion ``loss(output, target)``, or ``loss(output)``; None when the model returns its loss.
        memory_budget: the most bytes of tensors alive at any moment: parameters, buffers, inputs, activations,
            gradients and operators' workspace. An int, "8GiB", "600MB", or "50%" of the unplanned peak.

    Returns:
        The plan; ``print(plan)`` says what is kept and what is computed again, ``plan.code`` shows the step.

    Raises:
        BudgetInfeasibleError: no schedule fits; ``.floor_bytes`` is the least budget that one was found for.
        CaptureError, MissingRuleError: the step cannot be captured or differentiated.
    """
    return plan_for(model, args, kwargs, loss, memory_budget)


def plan_for(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[..., Any] | None,
    memory_budget: int | str | Plan,
    fused: bool = False,
) -> Plan:
    """The same with arguments that no name of ours can be taken for; ``fused``: for the inductor backend."""
    objective = objective_of(model, loss)
    trained = any(p.requires_grad for p in objective.parameters())
    with torch.enable_grad():
        forward = capture_for(objective, args, kwargs, wrt=() if trained else None)  # a target may not be smooth
    return schedule(differentiate(forward), memory_budget, fused=fused)


def objective_of(model: nn.Module, loss: Callable[..., Any] | None) -> nn.Module:
    """What is differentiated: ``loss(model(*args[:-1]), args[-1])``, ``loss(model(*args))``, or the model itself.

    Raises:
        GraphError: the model is no module, or the loss cannot be called.
    """
    refuse_no_module(model)
    refuse_criterion(loss)
    return Objective(model, loss) if loss is None or takes_target(loss) else _LossOfOutput(model, loss)


def takes_target(loss: Callable[..., Any]) -> bool:
    """Whether ``loss`` wants (output, target) rather than the output alone."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
        signature.bind(None, None)
    except (TypeError, ValueError):
        return False
    # ``lambda output, y=y: ...`` has its target already
    first_two = [*signature.parameters.values()][:2]
    return not any(isinstance(p.default, torch.Tensor) for p in first_two)
