"""Zeros that PyTorch knows to be zero: in forward mode, the tangents of what does not depend on the inputs.

``aten._efficientzerotensor`` has no memory, and ``mul`` and ``div`` of it are zero again, whatever they are taken with:
a tangent of nothing, times infinity, is nothing and not NaN. PyTorch tells them by a key of the dispatcher, which the
stand-ins of a capture lose inside ``torch.vmap``. So here they are ordinary zeros, told by their nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd.tracing.mutation import is_view

aten = torch.ops.aten
ZEROS = aten._efficientzerotensor.default
_PRODUCTS = frozenset({aten.mul.Tensor, aten.div.Tensor, aten.linalg_cross.default})
_PASSED_ON = frozenset({aten._to_copy.default, aten.clone.default, aten.neg.default, ops.stop, ops.no_grad})


def is_product(func: Any) -> bool:
    return func in _PRODUCTS


def vanishes(func: Any, operands: Sequence[Any]) -> bool:
    """Whether a product is zero by what it is taken of: nodes and numbers."""
    factors = operands[:1] if func is aten.div.Tensor else operands[:2]
    return any(isinstance(x, fx.Node) and _is_zero(x) for x in factors)


def _is_zero(node: fx.Node) -> bool:
    while node.op == "call_function" and (node.target in _PASSED_ON or _is_view(node.target)):
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return False
        node = source
    return node.target is ZEROS


def _is_view(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and is_view(target)


def like(tensor: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for zeros like ``tensor``."""
    return (list(tensor.shape),), {"dtype": tensor.dtype, "device": tensor.device}
