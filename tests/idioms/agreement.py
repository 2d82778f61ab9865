"""Do we agree with plain torch.autograd? For functions and for training steps; every expected number is PyTorch's.

Both sides get the same inputs and the same generator state. Functions are compared in value, gradient and second
derivative, modules in loss, parameters and buffers after steps of SGD.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn, optim
from torch.utils import _pytree as pytree

import memograd as mg

SEED = 7
RATE = 0.01
NO_SECOND = (
    "not implemented",
    "does not require grad",
    "not differentiable",
)  # where autograd has no second derivative

Tensors = list[torch.Tensor]


def plain_grad(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """``mg.grad`` as one writes it with ``torch.autograd``; differentiable again."""

    def gradient(*args: Any) -> Any:
        at = list(args)
        with torch.enable_grad():
            point = at[argnums]
            leaf = point if point.requires_grad else point.detach().requires_grad_()
            at[argnums] = leaf.view_as(leaf)
            (found,) = torch.autograd.grad(f(*at), at[argnums], create_graph=True, materialize_grads=True)
            own = leaf is not point and all(other is leaf for other in _leaves_behind(found))
            return found.detach() if own else found  # as ``torch.func.grad``: of what has no history none is made

    return gradient


def _leaves_behind(tensor: torch.Tensor) -> Tensors:
    """The leaves that ``backward`` would reach."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    leaves, seen, ahead = [], set(), [tensor.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            ahead += [n for n, _ in node.next_functions]
    return leaves


def by_autograd(f: Callable[..., Any], inputs: Sequence[torch.Tensor], rest: Sequence[torch.Tensor] = ()) -> Any:
    """``(value, gradients, H·direction or None, inputs and rest as f left them)``."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    rest = [t.clone() for t in rest]
    seed()
    with torch.enable_grad():
        value = f(*leaves, *rest)
    gradients = _gradients(value, leaves, create_graph=True)
    second = None
    inner = sum((g * d).sum() for g, d in zip(gradients, directions(inputs), strict=True))
    try:
        second = [g.detach() for g in _gradients(inner, leaves)]
    except RuntimeError as error:
        if not any(text in str(error) for text in NO_SECOND):
            raise
    return value.detach(), [g.detach() for g in gradients], second, [t.detach() for t in [*leaves, *rest]]


def _gradients(value: Any, leaves: Tensors, create_graph: bool = False) -> Tensors:
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return [torch.zeros_like(t) for t in leaves]
    return list(torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True))


def seed() -> None:
    """PyTorch's generator, Python's and NumPy's: SpecAugment, layerdrop and mixup draw from these."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    np.random.seed(SEED)


def directions(inputs: Sequence[torch.Tensor]) -> Tensors:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in inputs]


def check_function(
    f: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    rest: Sequence[torch.Tensor] = (),
    plain: Callable[..., Any] | None = None,
    tolerance: float = 1e-9,
    ways: Sequence[str] = ("grad", "vjp", "hvp"),
) -> None:
    """``f(*inputs, *rest)``, a scalar: value, gradients by ``inputs``, what it wrote to, and ``H·direction``.

    Args:
        plain: the same program without ``mg``, where ``f`` has some in it.
        ways: which transforms to take.
    """
    value, gradients, second, left = by_autograd(plain or f, inputs, rest)

    def alone(*primals: torch.Tensor) -> torch.Tensor:
        return f(*primals, *[t.clone() for t in rest])

    gradient = mg.value_and_grad(f, tuple(range(len(inputs))))
    for _ in range(2 if "grad" in ways else 0):  # the second time without a capture
        given = [t.clone() for t in [*inputs, *rest]]
        seed()
        found, ours = gradient(*given)
        close("value", [found], [value], tolerance)
        close("gradient", ours, gradients, tolerance)
        close("argument afterwards", given, left, tolerance)

    if "vjp" in ways:
        seed()
        found, pull = mg.vjp(alone, *[t.clone() for t in inputs])
        close("value of vjp", [found], [value], tolerance)
        close("pulled back", pull(torch.full_like(found, 2.0)), [2 * g for g in gradients], tolerance)

    if "hvp" in ways and second is not None:
        seed()
        product = mg.hvp(alone, tuple(t.clone() for t in inputs), tuple(directions(inputs)))
        close("second derivative", product, second, tolerance)


def check_step(
    model: nn.Module,
    *batch: Any,
    plain: nn.Module | None = None,
    steps: int = 2,
    tolerance: float = 1e-9,
    kind: type[mg.TrainStep] = mg.TrainStep,
    **options: Any,
) -> mg.TrainStep:
    """``model(*batch)`` is the loss: loss, parameters, buffers and batch after ``steps`` steps of SGD in plain PyTorch.

    Args:
        plain: the same model without ``mg``, where ``model`` has some in it.
        kind: the class of the step, which is returned.
    """
    theirs, their_batch = copy.deepcopy((plain or model, batch))
    losses = plain_steps(theirs, their_batch, options, steps)
    step = kind(model, None, optim.SGD(model.parameters(), lr=RATE), backend="eager")
    seed()
    found = [step(*batch, **options) for _ in range(steps)]
    close("loss", found, losses, tolerance)
    named = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        close(name, [tensor.detach()], [named[name].detach()], tolerance)
    close("batch afterwards", pytree.tree_leaves(batch), pytree.tree_leaves(their_batch), tolerance)
    return step


def plain_steps(model: nn.Module, batch: Any, options: dict[str, Any], steps: int) -> Tensors:
    """``steps`` steps of SGD as everybody writes them; the losses."""
    optimizer = optim.SGD(model.parameters(), lr=RATE)
    seed()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        out = model(*batch, **options)
        loss = getattr(out, "loss", out)
        with torch.enable_grad():
            loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


class Holds(nn.Module):
    """A function as a module: its inputs are parameters, what it writes to are buffers."""

    def __init__(
        self, f: Callable[..., Any], inputs: Sequence[torch.Tensor], rest: Sequence[torch.Tensor] = ()
    ) -> None:
        super().__init__()
        self.f = f
        self.inputs = nn.ParameterList([nn.Parameter(t.detach().clone()) for t in inputs])
        for k, tensor in enumerate(rest):
            self.register_buffer(f"rest{k}", tensor.clone())

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        return self.f(*self.inputs, *self.buffers()) * scale


def close(what: str, ours: Sequence[Any], theirs: Sequence[Any], tolerance: float) -> None:
    """Shapes and dtypes exactly, values relative to the largest; what is no tensor is equal."""
    assert len(ours) == len(theirs), what
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not isinstance(b, torch.Tensor):
            assert a == b, what
            continue
        atol = tolerance * max(1.0, b.abs().max().item() if b.numel() and b.dtype != torch.bool else 0.0)
        torch.testing.assert_close(
            a.detach(), b.detach(), rtol=0, atol=atol, msg=lambda m, k=k: f"{what} {k} is not PyTorch's: {m}"
        )
