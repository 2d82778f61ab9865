"""Reading and writing by index: gather and scatter are each other's adjoints."""

import torch

from memograd.rules.calculus import is_tensor, scaled
from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(aten.index.Tensor, formula="x̄ = zeros, plus ȳ at the indices")
def index(adjoint, y, x, indices):
    return aten.index_put(torch.zeros_like(x), indices, adjoint, True)


@rule(aten._unsafe_index.Tensor, formula="x̄ = zeros, plus ȳ at the indices")
def unsafe_index(adjoint, y, x, indices):
    return aten._unsafe_index_put(torch.zeros_like(x), indices, adjoint, True)


@rule(aten.index_put.default, formula="x̄ = ȳ, with 0 at the indices unless accumulating; v̄ = ȳ at the indices")
def index_put(adjoint, y, x, indices, values, accumulate=False):
    to_x = adjoint if accumulate else aten.index_put(adjoint, indices, torch.zeros_like(values), False)
    tensors = [(at, index) for at, index in enumerate(indices) if index is not None]
    if len(tensors) == 1 and tensors[0][1].dtype in (torch.bool, torch.uint8):
        return to_x, None, _where_selected(adjoint, *tensors[0], values)
    return to_x, None, aten.index(adjoint, indices)


def _where_selected(adjoint, at, mask, values):
    """``adjoint`` where ``mask`` of the dims from ``at`` on is true. How many places that is, the values tell; or what
    is written there is the same everywhere, so sum."""
    behind = adjoint.dim() - at - mask.dim()
    if mask.dim() and values.dim() > behind and values.shape[-1 - behind] != 1:
        places = aten.nonzero_static(mask, size=values.shape[-1 - behind]).unbind(1)
        return aten.index(adjoint, [*[None] * at, *places])
    selected = adjoint * mask.bool().reshape([*[1] * at, *mask.shape, *[1] * behind])
    return selected.sum(list(range(at, at + mask.dim()))).unsqueeze(at) if mask.dim() else selected


@rule(aten._unsafe_index_put.default, formula="as index_put")
def unsafe_index_put(adjoint, y, x, indices, values, accumulate=False):
    to_x = adjoint if accumulate else aten._unsafe_index_put(adjoint, indices, torch.zeros_like(values), False)
    return to_x, None, aten._unsafe_index(adjoint, indices)


@rule(aten._unsafe_masked_index.default, formula="x̄ = zeros, plus ȳ at the indices inside the mask")
def unsafe_masked_index(adjoint, y, x, mask, indices, fill):
    return aten._unsafe_masked_index_put_accumulate(torch.zeros_like(x), mask, indices, adjoint)


@rule(aten._unsafe_masked_index_put_accumulate.default, formula="x̄ = ȳ, v̄ = ȳ at the indices inside the mask")
def unsafe_masked_index_put(adjoint, y, x, mask, indices, values):
    return adjoint, None, None, aten._unsafe_masked_index(adjoint, mask, indices, 0)


@rule(aten.index_select.default, formula="x̄ = zeros, plus ȳ at the indices")
def index_select(adjoint, y, x, dim, index):
    return torch.zeros_like(x).index_add(dim, index, adjoint)


@rule(aten.index_add.default, formula="x̄ = ȳ, z̄ = α ȳ at the indices")
def index_add(adjoint, y, x, dim, index, source, alpha=1):
    return adjoint, None, None, scaled(_taken(adjoint, dim, index, source), alpha)


@rule(aten.index_copy.default, formula="x̄ = ȳ with 0 at the indices, z̄ = ȳ at the indices")
def index_copy(adjoint, y, x, dim, index, source):
    return adjoint.index_fill(dim, index, 0), None, None, _taken(adjoint, dim, index, source)


def _taken(adjoint, dim, index, source):
    if source.dim() == 0:
        return adjoint.index_select(dim, index.reshape(-1)).reshape(())
    return adjoint.index_select(dim, index).expand_as(source)


@rule(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor, formula="x̄ = ȳ with 0 at the indices, v̄ = Σ ȳ there")
def index_fill(adjoint, y, x, dim, index, value):
    to_x = adjoint.index_fill(dim, index, 0)
    return to_x, None, None, (adjoint - to_x).sum() if is_tensor(value) else None


@rule(aten.gather.default, formula="x̄ = zeros, plus ȳ at the indices")
def gather(adjoint, y, x, dim, index, sparse_grad=False):
    return torch.zeros_like(x).scatter_add(dim, index, adjoint)


@rule(aten.scatter.src, aten.scatter.value, formula="x̄ = ȳ with 0 at the indices, z̄ = ȳ at the indices")
def scatter(adjoint, y, x, dim, index, source):
    return adjoint.scatter(dim, index, 0), None, None, adjoint.gather(dim, index) if is_tensor(source) else None


@rule(aten.scatter_add.default, formula="x̄ = ȳ, z̄ = ȳ at the indices")
def scatter_add(adjoint, y, x, dim, index, source):
    return adjoint, None, None, adjoint.gather(dim, index)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor, formula="x̄ = ȳ with 0 in the mask, v̄ = Σ ȳ in the mask")
def masked_fill(adjoint, y, x, mask, value):
    return adjoint.masked_fill(mask, 0), None, adjoint.masked_fill(~mask, 0).sum() if is_tensor(value) else None


@rule(aten.masked_select.default, formula="x̄ = zeros with ȳ in the mask")
def masked_select(adjoint, y, x, mask):
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    return torch.zeros_like(x.expand(shape)).masked_scatter(mask, adjoint)


@rule(aten.masked_scatter.default, formula="x̄ = ȳ with 0 in the mask, z̄ = ȳ in the mask, in order")
def masked_scatter(adjoint, y, x, mask, source):
    return adjoint.masked_fill(mask, 0), None, _in_order(adjoint, mask, source)


def _in_order(adjoint, mask, source):
    """The k-th masked element to place k. Elements outside go to a spare last place, so no shape depends on values."""
    inside = mask.expand_as(adjoint).reshape(-1)
    place = torch.where(inside, inside.cumsum(0) - 1, source.numel())
    zeros = torch.zeros(source.numel() + 1, dtype=adjoint.dtype, device=adjoint.device)
    return zeros.index_add(0, place, adjoint.reshape(-1)).narrow(0, 0, source.numel()).reshape(source.shape)


@rule(aten.masked_scatter_backward.default, formula="ḡ = zeros with ȳ in the mask, in order")
def masked_scatter_backward(adjoint, y, g, mask, sizes):
    return torch.zeros_like(g).masked_scatter(mask, adjoint)


@rule(aten.take.default, formula="x̄ = zeros, plus ȳ at the flat indices")
def take(adjoint, y, x, index):
    return torch.zeros_like(x).put(index, adjoint, True)


@rule(aten.put.default, formula="x̄ = ȳ, with 0 at the flat indices unless accumulating; z̄ = ȳ at the flat indices")
def put(adjoint, y, x, index, source, accumulate=False):
    to_x = adjoint if accumulate else adjoint.put(index, torch.zeros_like(source), False)
    return to_x, None, adjoint.take(index).reshape(source.shape)


@rule(aten.copy.default, formula="x̄_old = 0, x̄_new = ȳ")
def copy(adjoint, y, old, new, non_blocking=False):
    return torch.zeros_like(old), adjoint if adjoint.device == new.device else adjoint.to(new.device)


@rule(aten.fill.Tensor, formula="x̄ = 0, v̄ = Σ ȳ")
def fill(adjoint, y, x, value):
    return torch.zeros_like(x), adjoint.sum()
