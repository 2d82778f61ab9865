"""The recursion of ``differentiate.py`` on numbers, with a protocol of what it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd.adjoint.recursion import Recursion, entry_of, known, sum_of
from memograd.rules.registry import pull_back

Element = tuple[fx.Node, int]  # one number of a node's value, by its flat position


@dataclass(frozen=True)
class Event:
    """One line of the protocol: ``kind`` is ``ask``, ``hit`` (found in the table) or ``done``."""

    depth: int
    kind: str
    what: str
    value: torch.Tensor | None


class Watched(Recursion):
    """The recursion itself; only the arithmetic is on numbers instead of symbols, and every visit is written down."""

    def __init__(self, values: dict[fx.Node, Any], loss: fx.Node, active: set[fx.Node]) -> None:
        super().__init__(None, {loss: torch.ones_like(values[loss])}, active, memoize=True)  # pyright: ignore[reportArgumentType]
        self.values = values
        self.events: list[Event] = []
        self.depth = 0

    def adjoint(self, v: fx.Node) -> Any:
        return self.watched(f"adjoint({label(v)})", v in self.table, lambda: super(Watched, self).adjoint(v))

    def vjp(self, u: fx.Node) -> dict[fx.Node, list[Any]]:
        return self.watched(f"vjp({label(u)})", u in self.pulled, lambda: super(Watched, self).vjp(u))

    def watched(self, what: str, hit: bool, compute: Any) -> Any:
        if not hit:
            self.events.append(Event(self.depth, "ask", what, None))
        self.depth += 1
        result = compute()
        self.depth -= 1
        value = result if isinstance(result, torch.Tensor) else None
        if hit or value is not None:
            self.events.append(Event(self.depth, "hit" if hit else "done", what, value))
        return result

    def add(self, v: fx.Node, contributions: list[Any]) -> Any:
        return sum_of(contributions)

    def apply_rule(self, u: fx.Node, adjoint: Any) -> dict[fx.Node, list[Any]]:
        contributions: dict[fx.Node, list[Any]] = {}
        operands: Any = u.args
        for v, share in zip(operands, pulled(u, adjoint, self.values), strict=False):
            if share is not None and v in self.active:
                contributions.setdefault(v, []).append(known(u, share))
        return contributions


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
        given = [known(u, p) for arg, p in zip(u.args, parts, strict=False) if arg is v and p is not None]
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
