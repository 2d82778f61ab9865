"""Backpropagation: the chain rule, applied recursively over the graph, with every result remembered.

    adjoint(loss) = 1
    adjoint(v)    = sum over the consumers u of v:  vjp_u(adjoint(u)) with respect to v

That is the whole algorithm (Goodfellow, Bengio & Courville, Deep Learning, algorithms 6.5 and 6.6: ``build_grad`` and
``grad_table``). ``Recursion.adjoint`` below says it in Python. Two remarks make it practical:

- *Memory.* Each adjoint is needed once for every operand of its node. Remembered in ``table`` it is computed once, and
  the work is proportional to the edges of the graph; forgotten, it is computed once for every path, and their number
  doubles with every diamond. ``memoize=False`` does exactly that, to be looked at on small graphs.
- *Order.* With the nodes visited from the loss backwards, every recursive call finds its answer in the table already,
  so a graph of 100,000 operators in a row needs no deep Python stack.

The rules run on symbolic tensors, so what the recursion computes is again a graph (``derivation.py``). On numbers it
computes numbers: which it is, is a matter of the ``Arithmetic`` that it is given. Who wants to see it at work takes
``watched.Watched``.
"""

from __future__ import annotations

import operator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import fx

from memograd.errors import MemogradError, MissingRuleError, NotDifferentiableError, RuleError
from memograd.rules.registry import Entry, Refused, lookup, pull_back
from memograd.tracing.functions import Call


class Recursion:
    """The chain rule on one graph: ``adjoint(v)`` is the derivative of the seeded results with respect to ``v``."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        seeds: dict[fx.Node, torch.Tensor],
        active: set[fx.Node],
        memoize: bool = True,
    ) -> None:
        self.arithmetic = arithmetic
        self.seeds = seeds  # adjoints of the results: 1 for a loss
        self.active = active  # nodes on a path from an input of interest to a result
        self.memoize = memoize
        self.table: dict[fx.Node, Any] = {}  # v -> adjoint(v)
        self.pulled: dict[fx.Node, dict[fx.Node, list[Any]]] = {}  # u -> {v: contributions of u to adjoint(v)}

    def adjoint(self, v: fx.Node) -> Any:
        """adjoint(v) = sum over the consumers u of v: vjp_u(adjoint(u)) with respect to v."""
        if v in self.table:
            return self.table[v]
        contributions = [self.seeds[v]] if v in self.seeds else []
        for u in reversed(list(v.users)):  # the last consumer's share is computed first; rules add consumers meanwhile
            if u in self.active:
                contributions += self.vjp(u).get(v, [])
        total = self.add(v, contributions)
        if self.memoize:
            self.table[v] = total
        return total

    def vjp(self, u: fx.Node) -> dict[fx.Node, list[Any]]:
        """What ``u`` passes back to each of its operands, given adjoint(u)."""
        if u in self.pulled:
            return self.pulled[u]
        adjoint = self.adjoint(u)
        contributions = self.apply_rule(u, adjoint) if adjoint is not None else {}
        if self.memoize:
            self.pulled[u] = contributions
        return contributions

    def add(self, v: fx.Node, contributions: list[Any]) -> Any:
        """Sum of the contributions. The adjoint of a node with several results is the list of theirs, and so is what is
        contributed to it."""
        with self.arithmetic.about(v):
            if isinstance(v.meta["val"], torch.Tensor):
                return sum_of(contributions)
            parts = [sum_of(list(summands)) for summands in zip(*contributions, strict=True)]
            return parts if any(p is not None for p in parts) else None

    def apply_rule(self, u: fx.Node, adjoint: Any) -> dict[fx.Node, list[Any]]:
        """The table's rule for the operator of ``u``, on symbolic tensors."""
        operands: Any = u.args
        if u.target is operator.getitem:  # one result of a node with several
            source, index = operands
            return {source: [[adjoint if k == index else None for k in range(len(source.meta["val"]))]]}
        entry = entry_of(u)
        if isinstance(u.target, Call):
            entry = u.target.entry_for([v in self.active for v in operands[0]])
        args, kwargs = fx.map_arg((u.args, u.kwargs), self.arithmetic.input)
        y = fx.map_arg(u, self.arithmetic.input) if isinstance(u.meta["val"], torch.Tensor) else self.outputs(u)
        with self.arithmetic.about(u):
            try:
                parts = pull_back(entry, adjoint, y, args, kwargs)
            except MemogradError:
                raise
            except Exception as error:
                message = f"the rule of {_at(u)} ({entry.file}) raised {type(error).__name__}: {error}"
                raise RuleError(message) from error
        contributions: dict[fx.Node, list[Any]] = {}
        for argument, part in zip(operands, parts, strict=True):
            pairs = zip(argument, part, strict=True) if isinstance(part, list) else [(argument, part)]
            for v, share in pairs:
                if share is not None and v in self.active:
                    contributions.setdefault(v, []).append(not_refused(u, share))
        return contributions

    def outputs(self, u: fx.Node) -> tuple[Any, ...]:
        """The results of a node with several outputs, for its rule to use."""
        with self.arithmetic.about(u):
            return tuple(
                self.arithmetic.item(u, i) if isinstance(v, torch.Tensor) else None for i, v in enumerate(u.meta["val"])
            )


class Arithmetic(Protocol):
    """What the recursion computes with: symbols, which a ``Tracer`` writes down, or numbers."""

    def input(self, node: fx.Node) -> Any:
        """The value of ``node``, for a rule to use."""

    def item(self, node: fx.Node, index: int) -> Any:
        """One of the values of a node with several."""

    def about(self, node: fx.Node) -> AbstractContextManager[Any]:
        """What is computed inside is about the adjoint of ``node``."""
        ...


def entry_of(u: fx.Node) -> Entry:
    """The table's line for the operator of ``u``; an error where there is none, or one that refuses."""
    entry = lookup(u.target)
    if entry is None:
        raise MissingRuleError(_missing(u))
    if entry.kind == "refused":
        raise NotDifferentiableError(f"{_at(u)} cannot be differentiated: {entry.formula}")
    return entry


def not_refused(u: fx.Node, share: Any) -> Any:
    """What the rule of ``u`` passes back to an operand; an error where it says that it cannot."""
    if isinstance(share, Refused):
        raise NotDifferentiableError(f"{_at(u)} cannot be differentiated: {share.why}")
    return share


def sum_of(summands: list[Any]) -> Any:
    """Left-to-right sum of those that are not None; None where there is none."""
    total = None
    for summand in summands:
        if summand is not None:
            total = summand if total is None else total + summand
    return total


def _at(u: fx.Node) -> str:
    module = f" in module '{u.meta['module']}'" if u.meta.get("module") else ""
    return f"{u.target}{module} at {u.meta.get('source', 'unknown source line')} ({u.meta.get('line', '')})"


def _missing(u: fx.Node) -> str:
    layout = getattr(u.meta["val"], "layout", torch.strided)
    if layout is not torch.strided:
        return (
            f"no rule for {_at(u)}, whose result has layout {layout}: keep to dense tensors, or make a sparse one of "
            "indices and values (torch.sparse_coo_tensor), by which there are gradients"
        )
    return (
        f"no rule for {_at(u)}. Register one: @memograd.rule({_torch_name(u.target)}) def op(adjoint, y, *args, "
        "**kwargs): return one adjoint per argument, None for no contribution"
    )


def _torch_name(target: Any) -> str:
    return f"torch.ops.{target}" if isinstance(target, torch._ops.OpOverload) else str(target)
