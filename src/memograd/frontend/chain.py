"""One call of a wrapped model as a chain of nodes in autograd's graph, over one backward pass.

A node hands all its gradients out at once, when it is done. So each segment of the backward pass is a node of its own,
with the parameters whose gradients it ends with; an edge without numbers leads from one to the next. Autograd runs them
in that order, and between two of them what waits for the gradients that are there: ``DistributedDataParallel`` begins
to sum them over the machines.

What one node leaves for the next travels along that edge, as an attribute of the empty tensor that is its gradient: it
lives as long as the pass, each pass has its own, and where nobody asks for the gradients further down it ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import distributed

from memograd._torch import has_hooks, needed_inputs
from memograd.frontend import segments
from memograd.frontend.picking import picked

Tensor = torch.Tensor


class UnderWay:
    """One backward pass, as far as it has come.

    Args:
        running: gives the gradients, by position among the flat inputs, some at a time.
        as_autograd: what autograd is handed for one position, given ours or None.
    """

    def __init__(
        self, running: Iterable[dict[int, Tensor]], as_autograd: Callable[[int, Any], Any] = lambda k, g: g
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

    def token(self, device: torch.device) -> Tensor:
        """The gradient of the edge to the next node."""
        token = torch.empty(0, device=device)
        token.under_way = self  # pyright: ignore[reportAttributeAccessIssue]
        return token


class _Link(torch.autograd.Function):
    """A segment behind the first one."""

    @staticmethod
    def forward(ctx: Any, group: list[int], device: torch.device, *flat: Tensor) -> Tensor:
        """``flat``: the inputs of the ``group``; behind them, where there is one, the edge to the next node."""
        ctx.group, ctx.last = group, len(flat) == len(group)
        ctx.set_materialize_grads(False)
        return torch.empty(0, device=device)

    @staticmethod
    def backward(ctx: Any, token: Any) -> Any:
        under_way: UnderWay = token.under_way
        gradients = under_way.take(ctx.group, ctx.last)
        return (None, None, *gradients, *([] if ctx.last else [under_way.token(token.device)]))


class Ends:
    """The flat inputs that autograd knows of, by the node of the chain that hands out their gradients.

    Args:
        sizes: of each of them, by position, the bytes.
        parameters: which of them are parameters.
    """

    def __init__(self, sizes: Mapping[int, int], parameters: Collection[int]) -> None:
        self.known = list(sizes)
        self.alone = picked(self.known)  # of the flat inputs, where one node has them all
        self.parameters = parameters
        self._large = sum(sizes.values()) > segments.LEAST_BYTES
        self._chains: WeakKeyDictionary[Any, list[list[int]]] = WeakKeyDictionary()

    def groups(self, running: Any, question: Any, flat: Sequence[Any]) -> list[list[int]]:
        """Those of each node, where ``running`` is expected to be asked this. What is no parameter waits for the last
        node: who is there may take the backward pass of this model for over."""
        if not (self._large and _early_gradients_matter(flat)):
            return [self.known]
        if running not in self._chains:
            together = [[k for k in group if k in self.parameters] for group in running.together(question)]
            groups = [group for group in together if group] or [[]]
            listed = {k for group in groups for k in group}
            groups[-1] += [k for k in self.known if k not in listed]
            self._chains[running] = groups
        return self._chains[running]


def _early_gradients_matter(flat: Iterable[Any]) -> bool:
    """Whether somebody may have a use for the first gradients before the last ones are there: other processes, or
    hooks, which may step the optimizer and free them. Each further node takes the time of some small operators."""
    return (distributed.is_available() and distributed.is_initialized()) or any(has_hooks(t) for t in flat)


def linked(groups: Sequence[list[int]], flat: Sequence[Any], device: torch.device) -> list[Tensor]:
    """The nodes behind the first one, for these ``groups`` of inputs: the edge that leads to them, if any."""
    links: list[Tensor] = []
    for group in reversed(groups):
        link: Any = _Link.apply(group, device, *[flat[k] for k in group], *links)
        links = [link]
    return links


def wanted_of(node: Any, groups: Sequence[list[int]] | None, surely: frozenset[int]) -> tuple[int, ...]:
    """Inside the backward of a node: its inputs, by position, whose gradients somebody wants; ``surely`` are taken to
    be among them. Where it is the first one of a chain: the flat inputs, by the ``groups`` of its nodes."""
    if groups is None or len(groups) == 1:
        needs = node.needs_input_grad[2:]
        known = [k for k, needed in zip(groups[0] if groups else range(len(needs)), needs, strict=True) if needed]
        if surely.issuperset(known):
            return tuple(known)
    if groups is None:
        return needed_inputs(node, surely)
    wanted: list[int] = []
    for group in groups:
        asked = needed_inputs(node, [k for k, at in enumerate(group) if at in surely])
        wanted += [group[k] for k in asked if k < len(group)]
        if len(group) not in asked:
            break
        node = node.next_functions[len(group)][0]
    return tuple(sorted(wanted))


def placed(parts: Iterable[dict[int, Tensor]], places: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """``parts`` by other positions: ``places`` of theirs. Nobody holds what was handed on."""
    for part in parts:
        handed = {places[k]: gradient for k, gradient in part.items()}
        part.clear()
        yield handed
