"""Table look-ups. The adjoint of a look-up adds each row of ȳ to the row of the table it came from."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


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
