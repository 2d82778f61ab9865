"""Convolutions and their two gradients as operators that say by which algorithm: ``winograd``, ``patches`` or
``positions``. Operands that lie otherwise than the graph said, and results that are not finite, are left to PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch.library import Library

from memograd.run.convolutions import patches, positions, winograd

aten = torch.ops.aten
_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define("convolution(Tensor x, Tensor w, Tensor? bias, int[] stride, int[] padding, str by) -> Tensor")
_LIBRARY.define(
    "convolution_input_gradient(Tensor g, Tensor w, int[] shape, int[] stride, int[] padding, str by) -> Tensor"
)
_LIBRARY.define(
    "convolution_filter_gradient(Tensor g, Tensor x, int[] shape, int[] stride, int[] padding, str by) -> Tensor"
)
_ONE, _NONE = [1, 1], [0, 0]


def fit(*tensors: torch.Tensor) -> bool:
    """Whether the algorithms of this folder take such tensors."""
    return all(
        t.dtype == torch.float32 and t.device.type == "cpu" and t.dim() == 4 and t.is_contiguous() and t.numel()
        for t in tensors
    )


@torch.library.impl(_LIBRARY, "convolution", "CPU")
def _convolution(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, stride: list[int], padding: list[int], by: str
) -> torch.Tensor:
    y = None
    if fit(x, w) and by == "winograd":
        y = winograd.convolution(x, w, padding[0])
    elif fit(x, w) and by == "positions":
        y = positions.convolution(x, w, _size(x.shape, w.shape, stride, padding), stride, padding)
    elif fit(x, w):
        y = _finite(patches.convolution(x, w, _size(x.shape, w.shape, stride, padding), stride, padding))
    if y is None:
        return aten.convolution.default(x, w, bias, stride, padding, _ONE, False, _NONE, 1)
    return y if bias is None else y.add_(bias.view(-1, 1, 1))


@torch.library.impl(_LIBRARY, "convolution_input_gradient", "CPU")
def _input_gradient(
    g: torch.Tensor, w: torch.Tensor, shape: list[int], stride: list[int], padding: list[int], by: str
) -> torch.Tensor:
    x = None
    if fit(g, w) and by == "winograd":
        x = winograd.input_gradient(g, w, padding[0])
    elif fit(g, w) and by == "positions":
        x = positions.input_gradient(g, w, shape, stride, padding)
    elif fit(g, w):
        x = _finite(patches.input_gradient(g, w, shape, stride, padding))
    return _pytorchs(0, g, g.new_empty(1).expand(shape), w, stride, padding) if x is None else x


@torch.library.impl(_LIBRARY, "convolution_filter_gradient", "CPU")
def _filter_gradient(
    g: torch.Tensor, x: torch.Tensor, shape: list[int], stride: list[int], padding: list[int], by: str
) -> torch.Tensor:
    w = None
    if fit(g, x) and by == "winograd":
        w = winograd.filter_gradient(g, x, padding[0])
    elif fit(g, x) and by == "positions":
        w = positions.filter_gradient(g, x, shape, stride, padding)
    elif fit(g, x):
        w = _finite(patches.filter_gradient(g, x, shape, stride, padding))
    return _pytorchs(1, g, x, g.new_empty(1).expand(shape), stride, padding) if w is None else w


def _pytorchs(
    k: int, g: torch.Tensor, x: torch.Tensor, w: torch.Tensor, stride: list[int], padding: list[int]
) -> torch.Tensor:
    """PyTorch's gradient by images (0) or filters (1), of which only the shape counts then."""
    mask = [k == 0, k == 1, False]
    return aten.convolution_backward.default(g, x, w, None, stride, padding, _ONE, False, _NONE, 1, mask)[k]


def _finite(x: torch.Tensor) -> torch.Tensor | None:
    """Products with zeros beside the image make NaN of infinities that a filter does not see there."""
    return x if isfinite(float(x.sum())) else None


@torch.library.impl(_LIBRARY, "convolution", "Meta")
def _convolution_without_data(x: Any, w: Any, bias: Any, stride: Any, padding: Any, by: str) -> Any:
    return aten.convolution.default(x, w, bias, stride, padding, _ONE, False, _NONE, 1)


@torch.library.impl(_LIBRARY, "convolution_input_gradient", "Meta")
@torch.library.impl(_LIBRARY, "convolution_filter_gradient", "Meta")
def _gradient_without_data(g: Any, _: Any, shape: Any, *rest: Any) -> Any:
    return g.new_empty(shape)


def _size(image: Sequence[int], filters: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> list[int]:
    return [(image[k + 2] + 2 * padding[k] - filters[k + 2]) // stride[k] + 1 for k in range(2)]
