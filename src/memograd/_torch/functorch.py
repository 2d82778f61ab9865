"""Transforms of other people: ``torch.func``'s, forward mode, and autograd's batched cotangents.

- ``is_wrapped``, ``wrapped_value``, ``level_of``, ``levels``, ``is_tracked``, ``inside_torch_func``,
  ``outside_torch_func``: ``torch.func``'s own transforms hand out wrapped tensors (a whole batch that looks like one
  sample). A program inside ``vmap`` has to be captured as if there were none; no public function tells a wrapped
  tensor, or leaves the transforms for a while.
- ``in_forward_mode``: nothing public says that forward mode is under way.
- ``has_batching_rule``: whether ``vmap`` runs an operator once for a whole batch. Public ``vmap`` only warns.
- ``is_batched``, ``unbatched``, ``batched``: the cotangents of ``autograd.grad(..., is_grads_batched=True)`` come in
  tensors that nothing public knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as outside_torch_func  # noqa: F401

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def inside_torch_func() -> bool:
    """True inside a function that ``torch.func``'s ``vmap``, ``grad``, ``jvp`` or ``functionalize`` transforms."""
    return _functorch.peek_interpreter_stack() is not None


def levels() -> int:
    """How many transforms of ``torch.func`` are under way, one inside the other."""
    return _functorch.get_dynamic_layer_stack_depth()


def is_wrapped(value: Any) -> bool:
    """True for a tensor as ``torch.func``'s transforms hand it to the function."""
    return isinstance(value, torch.Tensor) and _functorch.is_functorch_wrapped_tensor(value)


def level_of(tensor: torch.Tensor) -> int:
    """The transform that wrapped ``tensor``, counted from the outermost, which is 1."""
    return _functorch.maybe_get_level(tensor)


def wrapped_value(tensor: torch.Tensor) -> torch.Tensor | None:
    """The one tensor that stands behind a wrapped one; None where it is a whole batch."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return None
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def is_tracked(tensor: torch.Tensor) -> bool:
    """True where autograd, or a transform of ``torch.func``, will differentiate through what is done to ``tensor``."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return torch.is_grad_enabled() and tensor.requires_grad


def in_forward_mode() -> bool:
    """True where PyTorch's forward mode is under way, its own or that of ``torch.func.jvp``."""
    return torch.autograd.forward_ad._current_level >= 0


def has_batching_rule(operator: Any) -> bool:
    """True where ``vmap`` computes a whole batch by one call of ``operator``, not one sample after the other."""
    keys = ("FuncTorchBatched", "FuncTorchBatchedDecomposition")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key) for key in keys)


is_batched = _functorch.is_legacy_batchedtensor
"""Whether a cotangent is one of many at once (``autograd.grad(..., is_grads_batched=True)``), which autograd keeps in
tensors of a kind of their own, older than ``torch.func``'s."""


def unbatched(value: torch.Tensor) -> torch.Tensor | None:
    """Such cotangents as one tensor whose first dimension counts them; None where they are batched once more."""
    rows: Any = torch._remove_batch_dim(value, _batches(), 1, 0)  # pyright: ignore[reportPrivateImportUsage]
    return None if is_batched(rows) else rows


def batched(rows: torch.Tensor) -> torch.Tensor:
    """The other way round."""
    return torch._add_batch_dim(rows, 0, _batches())  # pyright: ignore[reportPrivateImportUsage]


def _batches() -> int:
    """How many batches of cotangents are under way, one inside the other."""
    try:
        return torch._C._vmapmode_increment_nesting() - 1  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        torch._C._vmapmode_decrement_nesting()  # pyright: ignore[reportAttributeAccessIssue]
