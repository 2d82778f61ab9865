"""The recursion of ``adjoint/recursion.py`` on numbers, with a protocol of what it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.adjoint.recursion import Recursion, entry_of, not_refused
from memograd.adjoint.watched import Moment, Question, Watched
from memograd.rules.registry import pull_back

_KINDS: dict[Moment, str] = {"asked": "ask", "remembered": "hit", "answered": "done"}


@dataclass(frozen=True)
class Event:
    """One line of the protocol: ``kind`` is ``ask``, ``hit`` (found in the table) or ``done``."""

    depth: int
    kind: str
    what: str
    value: torch.Tensor | None


class Numbers:
    """The recursion's arithmetic on numbers: ``values`` of every node."""

    def __init__(self, values: dict[fx.Node, Any]) -> None:
        self.values = values

    def input(self, node: fx.Node) -> Any:
        return self.values[node]

    def item(self, node: fx.Node, index: int) -> Any:
        return self.values[node][index]

    def about(self, node: fx.Node) -> AbstractContextManager[Any]:
        return nullcontext()


class Transcript:
    """Writes down what it sees of the recursion."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.depth = 0

    def __call__(self, moment: Moment, question: Question, node: fx.Node, answer: Any) -> None:
        value = answer if isinstance(answer, torch.Tensor) else None
        self.depth -= moment == "answered"
        if moment != "answered" or value is not None:
            self.events.append(Event(self.depth, _KINDS[moment], f"{question}({label(node)})", value))
        self.depth += moment == "asked"


def watched(values: dict[fx.Node, Any], loss: fx.Node, active: set[fx.Node]) -> tuple[Recursion, Transcript]:
    """The recursion on these numbers, and who writes down what it does."""
    transcript = Transcript()
    return Watched(Numbers(values), {loss: torch.ones_like(values[loss])}, active, transcript), transcript


def label(node: fx.Node) -> str:
    """A node's name without the variable that holds the model."""
    return node.name.removeprefix("model_")


def pulled(u: fx.Node, adjoint: torch.Tensor, values: dict[fx.Node, Any]) -> list[Any]:
    """What the rule of ``u`` passes back to each argument, in numbers."""
    operands: Any = fx.map_arg((u.args, u.kwargs), values.__getitem__)
    args, kwargs = operands
    return pull_back(entry_of(u), adjoint, values[u], args, kwargs)


def jacobian(u: fx.Node, v: fx.Node, values: dict[fx.Node, Any]) -> torch.Tensor:
    """∂u/∂v as a matrix, a row for each number of u: the rule asked with one adjoint of 1 after the other."""
    rows = []
    for i in range(values[u].numel()):
        one = torch.zeros_like(values[u]).reshape(-1)
        one[i] = 1
        parts = pulled(u, one.reshape(values[u].shape), values)
        given = [not_refused(u, p) for arg, p in zip(u.args, parts, strict=False) if arg is v and p is not None]
        shares = [p.reshape(-1) for p in given]
        rows.append(sum(shares, torch.zeros(values[v].numel(), dtype=values[v].dtype)))
    return torch.stack(rows)


class Paths:
    """Every way from a number of an input to the loss, through single numbers.

    Which number depends on which is asked at another point too, inside (0, 1), where no ReLU is off: a derivative that
    happens to be zero here is still a factor of its product.
    """

    def __init__(self, values: dict[fx.Node, Any], loss: fx.Node, active: set[fx.Node]) -> None:
        self.loss = loss
        generator = torch.Generator().manual_seed(0)
        probe = {
            n: 0.1 + 0.8 * torch.rand(t.shape, dtype=t.dtype, generator=generator) if isinstance(t, torch.Tensor) else t
            for n, t in values.items()
        }
        self.edges: dict[fx.Node, list[tuple[fx.Node, torch.Tensor, torch.Tensor]]] = {}
        for v in active:
            for u in v.users:
                if u in active:
                    self.edges.setdefault(v, []).append((u, jacobian(u, v, values), jacobian(u, v, probe) != 0))

    def of(self, v: fx.Node, i: int) -> Iterator[list[tuple[fx.Node, int, fx.Node, int, float]]]:
        """Paths as lists of factors ∂u[j]/∂v[i], the one next to the loss first."""
        if v is self.loss:
            yield []
        for u, numbers, depends in self.edges.get(v, []):
            for j in itertools.compress(range(len(depends)), depends[:, i].tolist()):
                for rest in self.of(u, j):
                    yield [*rest, (u, j, v, i, numbers[j, i].item())]
