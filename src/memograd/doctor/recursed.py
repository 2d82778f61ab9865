"""Forward pass and recursion on numbers: every value, every adjoint, every contribution.

The rules run on the numbers themselves. Only the backward of somebody's ``autograd.Function`` cannot: it is a program,
which is traced. A graph with one is differentiated on symbols, with a record of what became of each node
(``explain/record.py``), and that graph is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd import autocast
from memograd.adjoint.recursion import Recursion
from memograd.explain.record import record
from memograd.explain.watch import Numbers
from memograd.graph.interpreter import Call as Caller
from memograd.graph.interpreter import called, evaluate
from memograd.inspection.program import Inspected
from memograd.tracing.functions import Call

Values = dict[fx.Node, Any]
Shares = dict[fx.Node, dict[fx.Node, list[Any]]]


def recursed(inside: Inspected, flat: Sequence[Any], call: Caller = called) -> tuple[Values, Values, Shares]:
    """The values of all nodes of the program's graph for these flat inputs, the adjoints of those that get one, and for
    each operator what it contributes to each operand. ``call`` runs an operator."""
    if any(isinstance(n.target, Call) and n in inside.active for n in inside.graph.nodes):
        return _on_symbols(inside, flat, call)
    with torch.no_grad(), autocast.off():
        values = evaluate(inside.graph, flat, call)
        loss = inside.loss
        run = Recursion(Numbers(values), {loss: torch.ones_like(values[loss])}, inside.active)
        for v in reversed(inside.graph.fx.nodes):
            if v in inside.active:
                run.adjoint(v)
    return values, {v: a for v, a in run.table.items() if a is not None}, run.pulled


def _on_symbols(inside: Inspected, flat: Sequence[Any], call: Caller) -> tuple[Values, Values, Shares]:
    with torch.enable_grad(), autocast.off():
        recorded = record(inside.graph, list(inside.wrt))
    joint = recorded.joint
    more = [i.bound.detach() for i in joint.inputs[len(flat) :] if i.bound is not None]
    with torch.no_grad(), autocast.off():
        every = evaluate(joint, [*flat, *more], call)
    numbers = {n.name: value for n, value in every.items()}
    nodes = {n.name: n for n in inside.graph.fx.nodes if n.op != "output"}

    def of(total: Any) -> Any:
        if isinstance(total, list):
            return [None if t is None else every[t] for t in total]
        return None if total is None else every[total]

    table = {nodes[name]: a for name, total in recorded.adjoints.items() if (a := of(total)) is not None}
    pulled: Shares = {}
    for name, shares in recorded.contributions.items():
        for user, share in shares:
            pulled.setdefault(nodes[user], {}).setdefault(nodes[name], []).append(every[share])
    return {n: numbers[name] for name, n in nodes.items()}, table, pulled
