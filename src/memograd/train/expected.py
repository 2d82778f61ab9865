"""What PyTorch's own optimizer makes of given gradients, on copies: the witness of the update in a step's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import optim

from memograd.graph.graph import Graph
from memograd.witness.agreement import NOISE, Precision, Results, largest

Tensor = torch.Tensor
_PLAIN = {"foreach": False, "fused": None, "capturable": False}  # the formulas, none of the fast kernels


@dataclass(frozen=True)
class Expected:
    """One parameter after the update, with its optimizer state.

    Attributes:
        before: what it and its state are now, by name.
        values: the new ones.
        reach: how far each of them moves when the gradient moves by what two backends may differ in it. An update may
            be steep: Adam divides by the gradient's size, so that noise around zero decides the sign of a whole step.
    """

    before: dict[str, Tensor]
    values: dict[str, Tensor]
    reach: Callable[[], dict[str, Tensor]]


def updates(
    optimizer: optim.Optimizer,
    graph: Graph,
    ours: Results,
    theirs: Results,
    precision: Precision,
    rates: Mapping[int, float],
) -> Iterator[Expected]:
    """What is expected of every parameter of the optimizer that takes part in the step.

    Args:
        ours: the gradients to update with; ``theirs`` says which parameters have none.
        rates: learning rates by group, where they are not the optimizer's own.
    """
    names = {id(i.tensor): i.name for i in graph.inputs if i.tensor is not None}
    noise = NOISE * precision.loose * ours.largest
    for k, group in enumerate(optimizer.param_groups):
        settings = {**group, **_PLAIN, "lr": rates.get(k, float(group["lr"]))}
        for p in group["params"]:
            if (name := names.get(id(p), "")) in theirs.gradients:
                held = {key: t for key, t in optimizer.state.get(p, {}).items() if isinstance(t, Tensor)}
                gradient = None
                if theirs.gradients[name] is not None:
                    found = ours.gradients.get(name)
                    gradient = torch.zeros_like(p) if found is None else found
                yield _one(type(optimizer), settings, name, ours.written[name], held, gradient, precision.loose, noise)


def _one(
    kind: Any,
    settings: dict[str, Any],
    name: str,
    value: Tensor,
    state: dict[str, Tensor],
    gradient: Tensor | None,
    share: float,
    noise: float,
) -> Expected:
    def after(way: int) -> dict[str, Tensor]:
        if gradient is None:
            return _named(name, value, state)
        moved = gradient + way * (share * largest(gradient) + noise) if way else gradient
        return _named(name, *_after(kind, settings, value, state, moved))

    def reach() -> dict[str, Tensor]:
        less, more = after(-1), after(1)
        return {n: torch.maximum((less[n] - new).abs(), (more[n] - new).abs()) for n, new in values.items()}

    values = after(0)
    return Expected(_named(name, value, state), values, reach)


def _named(name: str, value: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value, **{f"{key} of {name}": tensor for key, tensor in state.items()}}


def _after(
    kind: Any, settings: dict[str, Any], value: Tensor, state: Mapping[str, Tensor], gradient: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Copies of one parameter and of its state after one step of an optimizer of this kind."""
    parameter = torch.nn.Parameter(value.detach().clone())
    parameter.grad = gradient.to(parameter.dtype)
    twin = kind([{**settings, "params": [parameter]}])
    if state:
        twin.state[parameter] = {k: t.clone() for k, t in state.items()}
    twin.step()
    return parameter.detach(), {k: t for k, t in twin.state[parameter].items() if k in state}
