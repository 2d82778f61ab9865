"""What PyTorch itself makes of given gradients, on copies: the witness of what a step's graph does behind its backward
pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import optim
from torch.optim.swa_utils import get_ema_multi_avg_fn

from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.train.appended import average_name
from memograd.train.build import Training
from memograd.train.gather import sum_name
from memograd.train.refinements import Clip
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
    training: Training,
    graph: Graph,
    contents: Mapping[str, Tensor],
    ours: Results,
    theirs: Results,
    precision: Precision,
    rates: Mapping[int, float],
    noise: Mapping[str, float],
) -> Iterator[Expected]:
    """What is expected of the norm of the gradients, of every parameter of the optimizer that takes part in the step,
    and of its average.

    Args:
        contents: what the inputs of the step's ``graph`` hold, by name.
        ours: the gradients to update with; ``theirs`` says which parameters have none.
        rates: learning rates by group, where they are not the optimizer's own.
        noise: how much of a gradient is known to be rounding.
    """
    names = {id(i.tensor): i.name for i in graph.inputs if i.tensor is not None}
    groups = training.optimizer.param_groups
    taking_part = [n for g in groups for p in g["params"] if (n := names.get(id(p), "")) in theirs.gradients]
    gradients, norm = clipped(training.refinements.clip, ours, theirs, taking_part)
    top = max(map(largest, gradients.values()), default=0.0)
    little = NOISE * precision.loose * top
    if norm is not None and (before := contents.get("gradient norm")) is not None:
        away = torch.full_like(norm, precision.loose * largest(norm) + sum(noise.values()))
        yield Expected({"gradient norm": before}, {"gradient norm": norm}, lambda: {"gradient norm": away})
    for k, group in enumerate(groups):
        settings = {**group, **_PLAIN, "lr": rates.get(k, float(group["lr"]))}
        for p in group["params"]:
            if (name := names.get(id(p), "")) in taking_part:
                state = {key: t for key, t in training.optimizer.state.get(p, {}).items() if isinstance(t, Tensor)}
                value, gradient = ours.written[name], gradients.get(name)
                about = little + noise.get(name, 0.0)
                new = _one(training.optimizer, settings, name, value, state, gradient, precision.loose, about)
                yield new
                if (average := contents.get(average_name(name))) is not None:
                    yield _average(training, name, average, new)
    for p in training.carried.averages:
        name = names.get(id(p), "")
        if name not in taking_part and (average := contents.get(average_name(name))) is not None:
            value = ours.written.get(name, contents[name])
            same = Expected({name: value}, {name: value}, lambda: {})
            yield _average(training, name, average, same)


def clipped(
    clip: Clip, ours: Results, theirs: Results, names: Iterable[str]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The gradients of these parameters, as far as they have any, as PyTorch clips them; and their norm before."""
    gradients: dict[str, Tensor] = {}
    for name in names:
        if theirs.gradients[name] is not None:
            mine = ours.gradients.get(name)
            gradients[name] = torch.zeros_like(ours.written[name]) if mine is None else mine
    if not clip:
        return gradients, None
    carriers = {n: torch.empty((), dtype=g.dtype, device=g.device).expand(g.shape) for n, g in gradients.items()}
    for name, carrier in carriers.items():
        carrier.grad = gradients[name].clone()
    norm = clip.by_torch(list(carriers.values()))
    return {n: c.grad for n, c in carriers.items() if c.grad is not None}, norm


def sums(
    training: Training,
    contents: Mapping[str, Tensor],
    ours: Results,
    theirs: Results,
    precision: Precision,
    noise: Mapping[str, float],
) -> Iterator[Expected]:
    """What is expected of the sums of gradients."""
    every = training.refinements.accumulate
    little = NOISE * precision.loose * ours.largest
    for name, gradient in ours.gradients.items():
        if gradient is not None and theirs.gradients.get(name) is not None:
            key = sum_name(name)
            about = precision.loose * largest(gradient) + little + noise.get(name, 0.0)
            away = torch.full_like(gradient, about / every)
            yield Expected({key: contents[key]}, {key: contents[key] + gradient / every}, lambda k=key, a=away: {k: a})


def _average(training: Training, name: str, average: Tensor, parameter: Expected) -> Expected:
    """The average of a parameter that becomes what is expected of it."""
    decay, key = training.refinements.ema_decay, average_name(name)
    assert decay is not None
    value = average.clone()
    get_ema_multi_avg_fn(decay)([value], [parameter.values[name]], 0)
    moves = name in parameter.before and parameter.before[name] is not parameter.values[name]

    def reach() -> dict[str, Tensor]:
        return {key: (1 - decay) * parameter.reach()[name] if moves else torch.zeros_like(value)}

    return Expected({key: average}, {key: value}, reach)


def _one(
    optimizer: optim.Optimizer,
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
        return _named(name, *_after(optimizer, settings, value, state, moved))

    def reach() -> dict[str, Tensor]:
        if gradient is not None and not isfinite(noise):  # the gradient is nothing but rounding
            return {n: torch.full_like(new, inf) for n, new in values.items()}
        less, more = after(-1), after(1)
        return {n: torch.maximum((less[n] - new).abs(), (more[n] - new).abs()) for n, new in values.items()}

    values = after(0)
    return Expected(_named(name, value, state), values, reach)


def _named(name: str, value: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value, **{f"{key} of {name}": tensor for key, tensor in state.items()}}


def _after(
    optimizer: optim.Optimizer,
    settings: dict[str, Any],
    value: Tensor,
    state: Mapping[str, Tensor],
    gradient: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Copies of one parameter and of its state after one step of an optimizer like this one."""
    parameter = torch.nn.Parameter(value.detach().clone())
    parameter.grad = gradient.to(parameter.dtype)
    twin = object.__new__(type(optimizer))
    vars(twin).update(vars(optimizer))
    vars(twin).pop("step", None)  # a scheduler's, which counts
    twin.param_groups = [{**settings, "params": [parameter]}]
    twin.state = defaultdict(dict)
    if state:
        twin.state[parameter] = {k: t.clone() for k, t in state.items()}
    twin.step()
    if unknown := twin.state[parameter].keys() - state.keys():
        name = type(optimizer).__name__
        raise GraphError(
            f"{name}.step() keeps {', '.join(map(repr, sorted(unknown)))} in its state, which its update rule does not "
            "begin with: let `start` of mg.update_rule make it, as a tensor"
        )
    return parameter.detach(), {k: t for k, t in twin.state[parameter].items() if k in state}
