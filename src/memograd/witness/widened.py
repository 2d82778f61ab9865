"""Run a program of lower precision in float64, to tell rounding from a wrong rule.

In float32 a gradient may differ from autograd's because sums are taken in another order; where the true gradient is
zero (a bias in front of a BatchNorm), noise is all there is. In float64 the same noise is a billion times smaller and
a wrong rule as large as before. Both autograd and a graph run under ``Widened``, which hands every operator its
arguments in float64 and lets it return float64, whatever dtype the program names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from memograd._torch import TorchDispatchMode, passed_on, pytree

_WIDER = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_HALF_TO_FLOAT = frozenset({torch.ops.aten._softmax.default, torch.ops.aten._log_softmax.default})


def wide(value: Any) -> Any:
    """A tensor in float64 or complex128, a dtype's wider one; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(_WIDER.get(value.dtype, value.dtype))
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def whole(operator: Any, args: Any) -> Any:
    """The arguments of an operator without the one that says its result is wider than its operand."""
    return (*args[:2], False) if operator in _HALF_TO_FLOAT else args


class Widened(TorchDispatchMode):
    """Computes in float64. Tensors of lower precision that come from outside are read once, and have a twin from then
    on, which takes their writes: the tensors themselves keep what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self._twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # id -> (the tensor, its twin)
        self._originals: dict[int, torch.Tensor] = {}  # id of a twin -> the tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map(self._wide, (whole(func, args), kwargs or {}))
        return pytree.tree_map(self._result, passed_on(func, args, kwargs))

    def _wide(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype not in _WIDER:
            return wide(value)
        if id(value) not in self._twins:
            twin = value.detach().to(_WIDER[value.dtype])
            self._twins[id(value)] = (value, twin)
            self._originals[id(twin)] = value
        return self._twins[id(value)][1]

    def _result(self, value: Any) -> Any:
        """The tensor itself where its twin was written to; what was made in the default dtype is widened."""
        if not isinstance(value, torch.Tensor):
            return value
        return self._originals.get(id(value), value.to(_WIDER.get(value.dtype, value.dtype)))


def widen(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors memory in float64, as ``module.double()`` does: autograd wants leaves in the dtype of gradients."""
    for tensor in tensors:
        if tensor.dtype in _WIDER:
            tensor.data = tensor.detach().to(_WIDER[tensor.dtype])
