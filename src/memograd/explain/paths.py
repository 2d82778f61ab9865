"""Local derivatives of a small graph, number by number: the factors of every path from an element to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from memograd.adjoint.recursion import entry_of, not_refused
from memograd.explain.numbers import number
from memograd.rules.registry import pull_back
from memograd.tracing.functions import Call

_ENTRIES = 20_000  # of all matrices together

Edge = tuple[fx.Node, fx.Node, list[list[Any]]]


def local_derivatives(order: list[fx.Node], active: set[fx.Node], values: Mapping[fx.Node, Any]) -> list[Edge] | None:
    """For every edge of the active graph (u, v, [[j, i, ∂u_j/∂v_i], ...]); None where that would be much, or where an
    operator has several results or a backward of its own.

    An entry is there if the derivative is not zero here, or at another point inside (0, 1), where no ReLU is off: one
    that happens to be zero here is still a factor of its product.
    """
    operators = [u for u in order if u.op == "call_function"]
    for u in operators:
        if not isinstance(u.meta["val"], torch.Tensor) or isinstance(u.target, Call) or u.meta["val"].is_complex():
            return None
    if sum(values[u].numel() * values[v].numel() for u in operators for v in u.all_input_nodes) > _ENTRIES:
        return None
    generator = torch.Generator().manual_seed(0)
    probe = {n: _elsewhere(t, generator) for n, t in values.items()}
    edges: list[Edge] = []
    for u in operators:
        there = _matrices(u, active, probe)
        for v, matrix in _matrices(u, active, values).items():
            at = ((matrix != 0) | (there[v] != 0)).nonzero().tolist() if v in there else matrix.nonzero().tolist()
            edges.append((u, v, [[j, i, number(matrix[j, i].item())] for j, i in at]))
    return edges


def _elsewhere(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    drawn = torch.rand(value.shape, dtype=torch.float64, generator=generator)
    return (0.1 + 0.8 * drawn).to(value)


def _matrices(u: fx.Node, active: set[fx.Node], values: Mapping[fx.Node, Any]) -> dict[fx.Node, torch.Tensor]:
    """∂u/∂v for each operand v, a row for each number of u: the rule asked with one adjoint of 1 after the other."""
    read: Any = fx.map_arg((u.args, u.kwargs), values.__getitem__)
    args, kwargs = read
    rows: dict[fx.Node, list[torch.Tensor]] = {}
    with torch.no_grad():
        for j in range(values[u].numel()):
            one = torch.zeros(values[u].numel(), dtype=values[u].dtype, device=values[u].device)
            one[j] = 1
            parts = pull_back(entry_of(u), one.reshape(values[u].shape), values[u], args, kwargs)
            row: dict[fx.Node, torch.Tensor] = {}
            for argument, part in zip(u.args, parts, strict=False):
                pairs: Any = zip(argument, part, strict=True) if isinstance(part, list) else [(argument, part)]  # pyright: ignore[reportArgumentType]
                for v, share in pairs:
                    if share is not None and v in active:
                        share = not_refused(u, share).reshape(-1)
                        row[v] = row[v] + share if v in row else share
            for v, share in row.items():
                rows.setdefault(v, []).append(share)
    return {v: torch.stack(shares) for v, shares in rows.items()}
