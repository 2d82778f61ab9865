"""Table look-ups. The adjoint of a look-up adds each row of ȳ to the row of the table it came from."""

import torch

from memograd.errors import NotDifferentiableError
from memograd.rules.registry import expand, rule

aten = torch.ops.aten
SUM, MEAN, MAX = 0, 1, 2  # torch.nn.functional's codes for what a bag does


@rule(aten.embedding.default, formula="w̄[i] = Σ ȳ at the places that looked up i")
def embedding(adjoint, y, weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    # always dense: ``sparse`` is a layout of autograd's result, not another gradient
    return aten.embedding_dense_backward(adjoint, indices, weight.shape[0], padding_idx, scale_grad_by_freq)


@rule(aten.embedding_dense_backward.default, formula="ḡ = w̄[indices], 0 at the padding")
def embedding_dense_backward(adjoint, y, g, indices, num_weights, padding_idx, scale_grad_by_freq):
    flat = indices.reshape(-1)
    rows = adjoint.index_select(0, flat)
    if scale_grad_by_freq:
        counts = torch.zeros(num_weights, dtype=rows.dtype, device=rows.device)
        counts = counts.index_add(0, flat, torch.ones_like(flat, dtype=rows.dtype))
        rows = rows / counts.index_select(0, flat).unsqueeze(1)
    if padding_idx >= 0:
        rows = rows * (flat != padding_idx).unsqueeze(1).to(rows.dtype)
    return rows.view(*indices.shape, adjoint.shape[1])


@rule(
    aten._embedding_bag.default,
    aten._embedding_bag_forward_only.default,
    formula="w̄[i] = Σ over the bags with i of s ȳ (1/n for mean), s̄ = ⟨ȳ, w[i]⟩",
)
def embedding_bag(
    adjoint,
    y,
    weight,
    indices,
    offsets,
    scale_grad_by_freq=False,
    mode=0,
    sparse=False,
    per_sample_weights=None,
    include_last_offset=False,
    padding_idx=-1,
):
    g, (_, offset2bag, bag_size, maximum) = adjoint[0], y
    weight_bar = aten._embedding_bag_backward(
        g,
        indices,
        offsets,
        offset2bag,
        bag_size,
        maximum,
        weight.shape[0],
        scale_grad_by_freq,
        mode,
        False,
        per_sample_weights,
        padding_idx,
    )
    sample_bar = None
    if per_sample_weights is not None:
        sample_bar = aten._embedding_bag_per_sample_weights_backward(
            g, weight, indices, offsets, offset2bag, mode, padding_idx
        )
    return weight_bar, None, None, None, None, None, sample_bar


@expand(aten._embedding_bag_backward.default, formula="w̄[i] = Σ over the bags with i of s g (1/n for mean)")
def embedding_bag_backward(
    g,
    indices,
    offsets,
    offset2bag,
    bag_size,
    maximum,
    num_weights,
    scale_grad_by_freq,
    mode,
    sparse,
    per_sample_weights,
    padding_idx=-1,
):
    if scale_grad_by_freq:  # no derivative of the forward pass to begin with, and the CPU's kernel counts differently
        raise NotDifferentiableError("the second derivative of embedding_bag with scale_grad_by_freq is not defined")
    table = g.new_zeros(num_weights, g.shape[1])
    bag, counts = _bags(indices, offsets, padding_idx, g)  # the kernels' own ``offset2bag`` may be left empty
    size = torch.zeros_like(g[:, 0]).index_add(0, bag, counts)
    if mode == MAX:
        return table.scatter_add(0, maximum.clamp_min(0), g.where(size.unsqueeze(1) > 0, 0))
    rows = g.index_select(0, bag) * counts.unsqueeze(1)
    if mode == MEAN:
        rows = rows / size.clamp_min(1).index_select(0, bag).unsqueeze(1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    return table.index_add(0, indices, rows)


@expand(aten._embedding_bag_per_sample_weights_backward.default, formula="s̄ = ⟨g of the bag, w[i]⟩")
def embedding_bag_per_sample_weights_backward(g, weight, indices, offsets, offset2bag, mode, padding_idx=-1):
    bag, counts = _bags(indices, offsets, padding_idx, g)
    return (g.index_select(0, bag) * weight.index_select(0, indices)).sum(1) * counts


def _bags(indices, offsets, padding_idx, g):
    """The bag of each look-up, and 1 where the look-up counts, 0 at the padding."""
    place = torch.arange(indices.shape[0], dtype=offsets.dtype, device=offsets.device)
    bag = torch.searchsorted(offsets, place, right=True) - 1
    return bag, (indices != padding_idx).to(g.dtype)
