"""The recursion at work: every question that it asks, every answer that it finds in its table or works out.

adjoint(x)  asked          adjoint(y)  asked ... answered          adjoint(x)  answered
adjoint(y)  remembered     (asked once more, by another operand)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import fx

from memograd.adjoint.recursion import Arithmetic, Recursion

Question = Literal["adjoint", "vjp"]
Moment = Literal["asked", "remembered", "answered"]
Observer = Callable[[Moment, Question, fx.Node, Any], None]


class Watched(Recursion):
    """The recursion, which tells ``observer`` of each question and of its answer (None when it is only asked)."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        seeds: dict[fx.Node, torch.Tensor],
        active: set[fx.Node],
        observer: Observer,
        memoize: bool = True,
    ) -> None:
        super().__init__(arithmetic, seeds, active, memoize)
        self.observer = observer

    def adjoint(self, v: fx.Node) -> Any:
        if v in self.table:
            self.observer("remembered", "adjoint", v, self.table[v])
            return self.table[v]
        self.observer("asked", "adjoint", v, None)
        total = super().adjoint(v)
        self.observer("answered", "adjoint", v, total)
        return total

    def vjp(self, u: fx.Node) -> dict[fx.Node, list[Any]]:
        if u in self.pulled:
            self.observer("remembered", "vjp", u, self.pulled[u])
            return self.pulled[u]
        self.observer("asked", "vjp", u, None)
        contributions = super().vjp(u)
        self.observer("answered", "vjp", u, contributions)
        return contributions
