"""Parts of a tensor (slice, select, diagonal, unfold, as_strided), writes to parts, and their backward kernels."""

import sys

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


def _bounds(x, dim, start, end):
    return 0 if start is None else start, x.shape[dim] if end is None else min(end, sys.maxsize)


@rule(aten.slice.Tensor, aten.slice_copy.Tensor, formula="x̄ = zeros with ȳ in the slice")
def slice_(adjoint, y, x, dim=0, start=None, end=None, step=1):
    return aten.slice_backward(adjoint, x.shape, dim, *_bounds(x, dim, start, end), step)


@rule(aten.narrow_copy.default, formula="x̄ = zeros with ȳ in the slice")
def narrow_copy(adjoint, y, x, dim, start, length):
    return aten.slice_backward(adjoint, x.shape, dim, start, start + length, 1)


@rule(aten.slice_backward.default, formula="ḡ = the slice of ȳ")
def slice_backward(adjoint, y, g, sizes, dim, start, end, step):
    return aten.slice(adjoint, dim, start, end, step)


@rule(aten.slice_scatter.default, formula="x̄ = ȳ with zeros in the slice, z̄ = the slice of ȳ")
def slice_scatter(adjoint, y, x, z, dim=0, start=None, end=None, step=1):
    cleared = aten.slice_scatter(adjoint, torch.zeros_like(z), dim, start, end, step)
    return cleared, aten.slice(adjoint, dim, start, end, step)


@rule(aten.slice_inverse.default, formula="x̄ = the slice of ȳ, z̄ = ȳ with zeros in the slice")
def slice_inverse(adjoint, y, x, z, dim=0, start=None, end=None, step=1):
    part = aten.slice(adjoint, dim, start, end, step)
    return part, aten.slice_scatter(adjoint, torch.zeros_like(x), dim, start, end, step)


@rule(aten.select.int, aten.select_copy.int, formula="x̄ = zeros with ȳ in the slice")
def select(adjoint, y, x, dim, index):
    return aten.select_backward(adjoint, x.shape, dim, index)


@rule(aten.select_backward.default, formula="ḡ = the slice of ȳ")
def select_backward(adjoint, y, g, sizes, dim, index):
    return adjoint.select(dim, index)


@rule(aten.select_scatter.default, formula="x̄ = ȳ with zeros in the slice, z̄ = the slice of ȳ")
def select_scatter(adjoint, y, x, z, dim, index):
    return aten.select_scatter(adjoint, torch.zeros_like(z), dim, index), adjoint.select(dim, index)


@rule(aten.diagonal.default, aten.diagonal_copy.default, formula="x̄ = zeros with ȳ on the diagonal")
def diagonal(adjoint, y, x, offset=0, dim1=0, dim2=1):
    return aten.diagonal_backward(adjoint, x.shape, offset, dim1, dim2)


@rule(aten.diagonal_backward.default, formula="ḡ = the diagonal of ȳ")
def diagonal_backward(adjoint, y, g, sizes, offset, dim1, dim2):
    return adjoint.diagonal(offset, dim1, dim2)


@rule(aten.diagonal_scatter.default, formula="x̄ = ȳ with zeros on the diagonal, z̄ = the diagonal of ȳ")
def diagonal_scatter(adjoint, y, x, z, offset=0, dim1=0, dim2=1):
    cleared = aten.diagonal_scatter(adjoint, torch.zeros_like(z), offset, dim1, dim2)
    return cleared, adjoint.diagonal(offset, dim1, dim2)


@rule(aten.unfold.default, aten.unfold_copy.default, formula="x̄ = Σ ȳ over the windows that show x")
def unfold(adjoint, y, x, dimension, size, step):
    return aten.unfold_backward(adjoint, x.shape, dimension, size, step)


@rule(aten.unfold_backward.default, formula="ḡ = the windows of ȳ")
def unfold_backward(adjoint, y, g, sizes, dim, size, step):
    return adjoint.unfold(dim, size, step)


@rule(aten.as_strided.default, aten.as_strided_copy.default, formula="x̄ = Σ ȳ over the elements that show x")
def as_strided(adjoint, y, x, size, stride, storage_offset=None):
    """Add ȳ into a copy of the memory, then look at that as x did, with a share each where x shows memory twice."""
    start = 0 if storage_offset is None else storage_offset - x.storage_offset()
    first = min(start, 0)  # of the memory that x or y looks at
    extent = max(_extent(x.shape, x.stride()), start + _extent(size, stride)) - first
    where = torch.arange(extent, device=x.device)
    shown = where.as_strided(size, stride, start - first).reshape(-1)
    memory = torch.zeros(extent, dtype=adjoint.dtype, device=x.device).index_add(0, shown, adjoint.reshape(-1))
    own = where.as_strided(x.shape, x.stride(), -first).reshape(-1)
    if _overlaps(x.shape, x.stride()):
        times = torch.zeros(extent, dtype=adjoint.dtype, device=x.device).index_add(
            0, own, torch.ones_like(own).to(memory.dtype)
        )
        memory = memory / times.real.clamp_min(1)  # numbers of times are real, whatever is adjoint
    return memory.index_select(0, own).reshape(x.shape)


@rule(aten.as_strided_scatter.default, formula="x̄ = ȳ with zeros in the view, z̄ = the view of ȳ")
def as_strided_scatter(adjoint, y, x, z, size, stride, storage_offset=None):
    dense = adjoint.contiguous()
    cleared = aten.as_strided_scatter(dense, torch.zeros_like(z), size, stride, storage_offset)
    return cleared, dense.as_strided(size, stride, storage_offset)


def _extent(size, stride):
    """How much memory a view reaches over."""
    return 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0


def _overlaps(size, stride):
    """True where two elements of a view may lie at one place: a stride does not clear what the smaller ones reach."""
    reach = 0
    for step, n in sorted((s, n) for n, s in zip(size, stride, strict=True) if n != 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False
