"""One call of a wrapped model as a chain of nodes in autograd's graph, over one backward pass.

A node hands all its gradients out at once, when it is done. So each segment of the backward pass is a node of its own,
with the parameters whose gradients it ends with; an edge without numbers leads from one to the next. Autograd runs them
in that order, and between two of them what waits for the gradients that are there: ``DistributedDataParallel`` begins
to sum them over the machines.

What one node leaves for the next travels along that edge, as an attribute of the empty tensor that is its gradient: it
lives as long as the pass, each pass has its own, and where nobody asks for the gradients further down it ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import distributed

from memograd._torch import has_hooks

Tensor = torch.Tensor


class Pass:
    """One backward pass, as far as it has come.

    Args:
        running: gives the gradients, by position among the flat inputs, some at a time.
        as_autograd: what autograd is handed for one position, given ours or None.
    """

    def __init__(
        self, running: Iterable[dict[int, Tensor]] = (), as_autograd: Callable[[int, Any], Any] = lambda k, g: g
    ) -> None:
        self.running: Iterator[dict[int, Tensor]] | None = iter(running)
        self.as_autograd = as_autograd
        self.waiting: dict[int, Tensor] = {}

    def take(self, group: Sequence[int], last: bool) -> list[Any]:
        """The gradients of these inputs; nobody holds them here any longer, so that autograd may keep them as they are.
        ``last``: all that is left runs."""
        while self.running is not None and (last or not self.waiting.keys() >= set(group)):
            try:
                handed = next(self.running)
            except StopIteration:
                self.running = None
            else:
                self.waiting.update(handed)
                handed.clear()
        return [self.as_autograd(k, self.waiting.pop(k, None)) for k in group]

    def all(self) -> dict[int, Tensor]:
        """Every gradient, which ``take`` hands out afterwards."""
        self.take((), last=True)
        return self.waiting


class _Link(torch.autograd.Function):
    """A segment behind the first one."""

    @staticmethod
    def forward(ctx: Any, group: list[int], device: torch.device, link: Tensor | None, *flat: Tensor) -> Tensor:
        ctx.group, ctx.last = group, link is None
        ctx.set_materialize_grads(False)
        return torch.empty(0, device=device)

    @staticmethod
    def backward(ctx: Any, token: Any) -> Any:
        return (None, None, *handed_on(token.under_way, ctx.group, ctx.last, token.device))


def early_gradients_matter(flat: Iterable[Any]) -> bool:
    """Whether somebody may have a use for the first gradients before the last ones are there: other processes, or
    hooks, which may step the optimizer and free them. Each further node takes the time of some small operators."""
    return (distributed.is_available() and distributed.is_initialized()) or any(has_hooks(t) for t in flat)


def linked(groups: Sequence[list[int]], flat: Sequence[Any], device: torch.device) -> Tensor | None:
    """The nodes behind the first one, for these ``groups`` of inputs, as the edge that leads to them."""
    link: Tensor | None = None
    for group in reversed(groups):
        link = _Link.apply(group, device, link, *[flat[k] for k in group])  # pyright: ignore[reportAssignmentType]
    return link


def handed_on(under_way: Pass, group: Sequence[int], last: bool, device: torch.device) -> list[Any]:
    """What a node's backward returns for the edge to the next one, and for its inputs."""
    gradients = under_way.take(group, last)
    if last:
        return [None, *gradients]
    token = torch.empty(0, device=device)
    token.under_way = under_way  # pyright: ignore[reportAttributeAccessIssue]
    return [token, *gradients]
