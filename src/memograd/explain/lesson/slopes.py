"""Sections 1 and 2: the loss along one weight, and the chain rule on two functions, at every point that can be dragged
to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from memograd.explain.lesson.numbers import numbers
from memograd.pipeline import capture, differentiate
from memograd.recipes import data
from memograd.recipes.models import SimpleCNN, SimpleNN
from memograd.transforms.grad import grad

SEED = 5  # of the network that the whole lesson looks at: it learns XOR
REACH, SLOPE_POINTS = 3.0, 121  # how far a weight is moved to both sides of where it starts, and in how many places
RATE = 4  # of a step downhill: so that it goes somewhere on the plot
X_REACH, CHAIN_POINTS = 2.0, 129  # of x in the chain rule
CURVE_POINTS = 81  # of the outer function alone

Function = Callable[[torch.Tensor], torch.Tensor]
INNER: Mapping[str, Function] = {
    "square": torch.square,
    "sin": torch.sin,
    "tanh": torch.tanh,
    "exp": lambda x: torch.exp(x / 2),
    "relu": torch.relu,
}
OUTER: Mapping[str, Function] = {
    "sin": torch.sin,
    "square": torch.square,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


def network() -> SimpleNN:
    """The lecture's network with the weights it starts from."""
    torch.manual_seed(SEED)
    return SimpleNN().double()


def loss_of(model: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss over the samples of a batch, as a function of the batch."""
    return lambda x, y: nn.functional.binary_cross_entropy(model(x), y)


def along_weights() -> dict[str, Any]:
    """For each of the nine weights the loss and its derivative, the eight others staying where they start."""
    model = network()
    batch = data.xor(torch.float64)
    forward = capture(loss_of(model), *batch)
    joint = differentiate(forward)
    offsets = torch.linspace(-REACH, REACH, SLOPE_POINTS, dtype=torch.float64)
    weights = []
    for name, parameter in joint.parameters.items():
        flat = parameter.detach().view(-1)
        for k in range(flat.numel()):
            start = flat[k].item()
            losses, slopes = [], []
            for offset in offsets.tolist():
                flat[k] = start + offset
                loss, gradients = joint(*batch)
                losses.append(loss.item())
                slopes.append(gradients[name].reshape(-1)[k].item())
            flat[k] = start
            weights.append(
                {
                    "name": name.removeprefix("model."),
                    "index": list(divmod(k, parameter.shape[-1])) if parameter.dim() == 2 else [k],
                    "start": start,
                    "loss": numbers(losses),
                    "slope": numbers(slopes),
                }
            )
    return {"reach": REACH, "points": SLOPE_POINTS, "rate": RATE, "weights": weights, "costs": _costs(joint, forward)}


def _costs(joint: Any, forward: Any) -> dict[str, Any]:
    """What one derivative after the other would take, beside all of them at once."""
    own, cnn = (sum(p.numel() for p in m.parameters()) for m in (network(), SimpleCNN()))
    return {
        "parameters": own,
        "cnn": cnn,
        "forward": len(forward.nodes),
        "joint": len(joint.nodes),
    }


def chains() -> dict[str, Any]:
    """z = f(g(x)): values and derivatives of the inner, the outer and the whole function at every x."""
    x = torch.linspace(-X_REACH, X_REACH, CHAIN_POINTS, dtype=torch.float64)
    inner = {}
    pairs = {}
    for g_name, g in INNER.items():
        y, dy = g(x), _slope(g, x)
        inner[g_name] = {"y": numbers(y), "slope": numbers(dy)}
        across = torch.linspace(y.min().item(), y.max().item(), CURVE_POINTS, dtype=torch.float64)
        for f_name, f in OUTER.items():
            whole = _slope(lambda x, f=f, g=g: f(g(x)), x)
            pairs[f"{g_name}-{f_name}"] = {
                "z": numbers(f(y)),
                "outer": numbers(_slope(f, y)),
                "whole": numbers(whole),
                "curve": numbers(f(across)),
            }
    return {"reach": X_REACH, "points": CHAIN_POINTS, "inner": inner, "outer": list(OUTER), "pairs": pairs}


def _slope(f: Function, x: torch.Tensor) -> torch.Tensor:
    return grad(lambda x: f(x).sum())(x)
