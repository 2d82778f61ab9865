"""Backward operators as PyTorch takes them apart where somebody goes on from the gradients (``create_graph``): one
operator stands for a sum of terms, and who differentiates it adds them up in another order.

Of PyTorch's formula for ``mish``, log1p(exp x) in it, second derivatives are NaN where exp x overflows: that one stays
an operator.
"""

from __future__ import annotations

from typing import Any

import torch

from memograd.graph.graph import Graph
from memograd.lower.retrace import retrace

aten = torch.ops.aten


def differentiable(graph: Graph) -> Graph:
    """``graph`` with these formulas, operation by operation those of ``FunctionsManual.cpp`` in PyTorch."""
    return retrace(graph, _FORMULAS)


def _silu_backward(g: Any, x: Any) -> Any:
    """x̄ = ȳ σ (1 + x (1 - σ))"""
    s = x.sigmoid()
    return g * s * (1.0 + x * (1.0 - s))


_FORMULAS = {aten.silu_backward.default: _silu_backward}
