"""Tensors that no graph takes, and what to pass in their place."""

from __future__ import annotations

import torch

from memograd.errors import CaptureError


def refuse_unusual(tensor: torch.Tensor, what: str, sparse: bool) -> None:
    """Raises CaptureError for a tensor without strides, of several tensors, or of quantized numbers. ``what``: who it
    is, ``sparse``: whether it may be one of coordinates and values."""
    if tensor.is_nested:
        instead = "a padded tensor and its lengths (torch.nested.to_padded_tensor(x, 0.0))"
        raise CaptureError(f"{what} is a nested tensor, which cannot be captured; pass {instead}")
    if tensor.is_quantized:
        raise CaptureError(f"{what} is quantized, which cannot be captured; pass x.dequantize()")
    if tensor.layout is not torch.strided and not (sparse and tensor.layout is torch.sparse_coo):
        instead = "x.to_dense() or x.to_sparse()" if sparse else "x.to_dense()"
        raise CaptureError(f"{what} has layout {tensor.layout}, which cannot be captured; pass {instead}")
