"""Strides as kernels have them, where PyTorch's shape functions say otherwise.

A trace runs on tensors without data, whose strides come from shape functions written apart from the kernels. For most
operators the two agree. For those below they do not: the shape function of ``mse_loss_backward`` follows its operands,
the kernel's result is contiguous. What a program or a rule decides by strides (``x.view(-1)``, ``contiguous()``, the
order in which dropout draws) would then be decided for a tensor that will never be.

``tests/tracing/test_layouts.py`` holds every operator, listed or not, to its kernel on the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import elementwise_strides, suggested_format

aten = torch.ops.aten
Layout = Callable[[torch.Tensor, Any], tuple[int, ...]]  # (a result, the operator's arguments) -> its strides


def contiguous(out: torch.Tensor, args: Any) -> tuple[int, ...]:
    """Row by row, whatever the operands are."""
    return torch.empty(out.shape, device="meta").stride()


def of_parts(out: torch.Tensor, args: Any) -> tuple[int, ...]:
    """Row by row where complex numbers become real ones; else as PyTorch says."""
    return contiguous(out, args) if args[0].is_complex() else out.stride()


def of_format(position: int) -> Layout:
    """Channels last where that operand's channels are; else row by row."""

    def layout(out: torch.Tensor, args: Any) -> tuple[int, ...]:
        return torch.empty(out.shape, device="meta", memory_format=suggested_format(args[position])).stride()

    return layout


def of_volume(batched: int, single: int) -> Layout:
    """The same of volumes, where one operand decides for a batch of them and another one for a single volume."""

    def layout(out: torch.Tensor, args: Any) -> tuple[int, ...]:
        if out.dim() == 5:
            return of_format(batched)(out, args)
        x = args[single].unsqueeze(0)
        last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
        form = torch.channels_last_3d if last else torch.contiguous_format
        return torch.empty((1, *out.shape), device="meta", memory_format=form).stride()[1:]

    return layout


def like(position: int) -> Layout:
    """As a copy of that operand."""
    return lambda out, args: torch.empty_like(args[position]).stride()


def apart(position: int) -> Layout:
    """As that operand; as a copy of it where elements of it share memory (``expand``)."""

    def layout(out: torch.Tensor, args: Any) -> tuple[int, ...]:
        x = args[position]
        shared = any(n > 1 and not s for n, s in zip(x.shape, x.stride(), strict=True))
        return torch.empty_like(x).stride() if shared else out.stride()

    return layout


def pointwise(*positions: int) -> Layout:
    """As PyTorch's elementwise loop lays out its result; where the operands disagree the first one decides."""
    return lambda out, args: elementwise_strides([args[p] for p in positions])


# Operators whose kernels agree on all devices: (operator, how each of its results lies; None: as PyTorch says).
_EVERYWHERE: dict[Any, tuple[Layout | None, ...]] = {
    aten._log_softmax_backward_data.default: (contiguous,),
    aten.angle.default: (of_parts,),
    aten.binary_cross_entropy_backward.default: (like(1),),
    aten.huber_loss_backward.default: (contiguous,),
    aten.mse_loss_backward.default: (contiguous,),
    aten.smooth_l1_loss_backward.default: (contiguous,),
    aten.native_layer_norm_backward.default: (contiguous, contiguous, contiguous),
    aten.normal.Tensor_Tensor: (contiguous,),
    aten.pow.Scalar: (contiguous,),
    aten.glu_backward.default: (contiguous,),
    aten._prelu_kernel_backward.default: (pointwise(1, 2, 0), pointwise(1, 2, 0)),
    aten.copysign.Tensor: (pointwise(0, 1),),
    aten.div.Tensor_mode: (pointwise(0, 1),),
    aten.complex.default: (pointwise(0, 1),),
    aten.floor_divide.default: (pointwise(0, 1),),
    aten.hardsigmoid_backward.default: (pointwise(0, 1),),
    aten.hardswish_backward.default: (pointwise(0, 1),),
    aten.hardtanh_backward.default: (pointwise(0, 1),),
    aten.leaky_relu_backward.default: (pointwise(1, 0),),
    aten.threshold_backward.default: (pointwise(1, 0),),
    aten.heaviside.default: (pointwise(0, 1),),
    aten.logaddexp.default: (pointwise(0, 1),),
    aten.logaddexp2.default: (pointwise(0, 1),),
    aten.logical_and.default: (pointwise(0, 1),),
    aten.logical_or.default: (pointwise(0, 1),),
    aten.logical_xor.default: (pointwise(0, 1),),
    aten.logit_backward.default: (pointwise(0, 1),),
    aten.native_dropout_backward.default: (pointwise(0, 1),),
    aten.polar.default: (pointwise(0, 1),),
    aten.rrelu_with_noise_backward.default: (pointwise(2, 0),),
    aten.softplus_backward.default: (pointwise(0, 1),),
    aten.special_xlog1py.default: (pointwise(0, 1),),
    aten.xlogy.Tensor: (pointwise(0, 1),),
    aten.index_fill.int_Tensor: (like(0),),
    aten.uniform.default: (like(0),),
    aten.slice_scatter.default: (apart(0),),
    aten.select_scatter.default: (apart(0),),
    aten.diagonal_scatter.default: (apart(0),),
    aten.max_pool3d_with_indices.default: (of_volume(0, 0), of_volume(0, 0)),
    aten.max_pool3d_with_indices_backward.default: (of_volume(1, 0),),
}

_CPU: dict[Any, tuple[Layout | None, ...]] = {
    aten._batch_norm_with_update_functional.default: (of_format(0),),
    aten._batch_norm_with_update.default: (of_format(0),),
    aten._native_batch_norm_legit.default: (of_format(0),),
    aten._native_batch_norm_legit.no_stats: (of_format(0),),
    aten._native_batch_norm_legit_functional.default: (of_format(0),),
    aten.native_batch_norm.default: (of_format(0),),
    aten.native_batch_norm_backward.default: (of_format(1),),
    aten.channel_shuffle.default: (of_format(0),),
    aten.isin.Tensor_Tensor: (contiguous,),
    aten.log_sigmoid_backward.default: (like(0),),
    aten.log_sigmoid_forward.default: (contiguous, contiguous),
    aten.max_unpool2d.default: (of_format(0),),
    aten.reflection_pad2d_backward.default: (of_format(1),),
    aten.reflection_pad3d.default: (of_format(0),),
    aten.reflection_pad3d_backward.default: (of_format(1),),
    aten.replication_pad2d_backward.default: (of_format(1),),
    aten.replication_pad3d.default: (of_format(0),),
    aten.replication_pad3d_backward.default: (of_format(1),),
    aten._standard_gamma.default: (contiguous,),
    aten._weight_norm_interface.default: (contiguous,),
    aten.poisson.default: (contiguous,),
}


def as_kernel(func: Any, args: Any, out: Any) -> Any:
    """``out``, results without data of ``func(*args)``, in the strides that the kernel will give them."""
    layouts = _EVERYWHERE.get(func) or _CPU.get(func)
    if layouts is None or (func in _CPU and args[0].device.type != "cpu"):
        return out
    if isinstance(out, torch.Tensor):
        return _laid_out(out, layouts[0], args)
    layouts = (*layouts, *[None] * (len(out) - len(layouts)))
    return tuple(_laid_out(o, layout, args) for o, layout in zip(out, layouts, strict=True))


def _laid_out(out: Any, layout: Layout | None, args: Any) -> Any:
    if layout is None or not isinstance(out, torch.Tensor):
        return out
    strides = layout(out, args)
    if all(n < 2 or a == b for n, a, b in zip(out.shape, out.stride(), strides, strict=True)):
        return out
    return out.new_empty_strided(out.shape, strides)
