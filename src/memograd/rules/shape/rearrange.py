"""Views, rearrangements, joins and paddings: linear, so the adjoint takes the way back."""

import torch

from memograd.rules.registry import rule

aten = torch.ops.aten


@rule(
    aten.view.default,
    aten.view_copy.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten._reshape_copy.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_copy.default,
    aten.squeeze_copy.dim,
    aten.squeeze_copy.dims,
    aten.unsqueeze.default,
    aten.unsqueeze_copy.default,
    formula="x̄ = ȳ in the shape of x",
)
def view(adjoint, y, x, *_, **__):
    return adjoint.reshape(x.shape)


@rule(
    aten.clone.default,
    aten.alias.default,
    aten.alias_copy.default,
    aten.lift.default,
    aten.lift_fresh_copy.default,
    aten._lazy_clone.default,
    aten.contiguous.default,
    formula="x̄ = ȳ",
)
def clone(adjoint, y, x, **_):
    return adjoint


@rule(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, formula="x̄ = ȳ as x is stored")
def to_copy(adjoint, y, x, *_, **__):
    return adjoint if adjoint.device == x.device else adjoint.to(x.device)


@rule(aten.expand.default, aten.expand_copy.default, formula="x̄ = Σ ȳ over the stretched dimensions")
def expand(adjoint, y, x, size, implicit=False):
    return adjoint  # the table undoes broadcasting


@rule(aten.t.default, aten.t_copy.default, formula="X̄ = Ȳᵀ")
def t(adjoint, y, x):
    return adjoint.t()


@rule(aten.transpose.int, aten.transpose_copy.int, formula="x̄ = ȳ transposed")
def transpose(adjoint, y, x, dim0, dim1):
    return adjoint.transpose(dim0, dim1)


@rule(aten.permute.default, aten.permute_copy.default, formula="x̄ = ȳ in the inverse permutation")
def permute(adjoint, y, x, dims):
    inverse = [0] * len(dims)
    for i, d in enumerate(dims):
        inverse[d] = i
    return adjoint.permute(inverse)


@rule(aten.flip.default, formula="x̄ = ȳ flipped")
def flip(adjoint, y, x, dims):
    return adjoint.flip(dims)


@rule(aten.roll.default, formula="x̄ = ȳ rolled back")
def roll(adjoint, y, x, shifts, dims=()):
    shifts = [shifts] if isinstance(shifts, int) else shifts
    return adjoint.roll([-s for s in shifts], dims)


@rule(aten.rot90.default, formula="x̄ = ȳ turned back")
def rot90(adjoint, y, x, k=1, dims=(0, 1)):
    return adjoint.rot90(-k, dims)


@rule(aten.repeat.default, formula="x̄ = Σ ȳ over the copies")
def repeat(adjoint, y, x, repeats):
    extra = len(repeats) - x.dim()
    sizes = [1] * extra + list(x.shape)
    split = [n for pair in zip(repeats, sizes, strict=True) for n in pair]  # (copies, size) for each dimension
    return adjoint.reshape(split).sum(list(range(0, len(split), 2))).reshape(x.shape) if split else adjoint


@rule(aten.tril.default, formula="X̄ = lower triangle of Ȳ")
def tril(adjoint, y, x, diagonal=0):
    return adjoint.tril(diagonal)


@rule(aten.triu.default, formula="X̄ = upper triangle of Ȳ")
def triu(adjoint, y, x, diagonal=0):
    return adjoint.triu(diagonal)


@rule(aten.diag_embed.default, formula="x̄ = diagonal of ȳ")
def diag_embed(adjoint, y, x, offset=0, dim1=-2, dim2=-1):
    return adjoint.diagonal(offset, dim1, dim2)


@rule(aten.cat.default, formula="x̄_k = the k-th part of ȳ")
def cat(adjoint, y, tensors, dim=0):
    parts, start = [], 0
    for x in tensors:
        if x.shape == (0,) and y.dim() != 1:  # cat skips these
            parts.append(torch.zeros_like(x))
            continue
        size = x.shape[dim]
        parts.append(adjoint.narrow(dim, start, size))
        start += size
    return parts, None


@rule(aten.stack.default, formula="x̄_k = the k-th slice of ȳ")
def stack(adjoint, y, tensors, dim=0):
    return list(adjoint.unbind(dim)), None


@rule(aten.block_diag.default, formula="X̄_k = the k-th block of Ȳ")
def block_diag(adjoint, y, tensors):
    parts, row, column = [], 0, 0
    for x in tensors:
        height, width = (1, x.numel()) if x.dim() < 2 else x.shape
        parts.append(adjoint[row : row + height, column : column + width].reshape(x.shape))
        row, column = row + height, column + width
    return (parts,)


@rule(
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split_copy.Tensor,
    aten.split_with_sizes_copy.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.unsafe_chunk.default,
    formula="x̄ = the adjoints of the parts, joined",
)
def split(adjoint, y, x, sizes, dim=0):
    return torch.cat(_filled(adjoint, y), dim)


@rule(aten.unbind.int, aten.unbind_copy.int, formula="x̄ = the adjoints of the slices, stacked")
def unbind(adjoint, y, x, dim=0):
    return torch.stack(_filled(adjoint, y), dim)


def _filled(adjoints, results):
    return [torch.zeros_like(r) if a is None else a for a, r in zip(adjoints, results, strict=True)]


@rule(aten.constant_pad_nd.default, formula="x̄ = ȳ without the border")
def constant_pad(adjoint, y, x, pad, value=0):
    return aten.constant_pad_nd(adjoint, [-p for p in pad])


def _padding(pad, backward):
    """A padding that copies from inside, and its kernel: the adjoint of one is the other."""

    @rule(pad, formula="x̄ = Σ ȳ over the places that show x")
    def forth(adjoint, y, x, padding):
        return backward(adjoint, x, padding)

    @rule(backward, formula="ḡ = ȳ padded")
    def back(adjoint, y, g, x, padding):
        return pad(adjoint, padding), torch.zeros_like(x)

    return forth, back


reflection_pad1d = _padding(aten.reflection_pad1d.default, aten.reflection_pad1d_backward.default)
reflection_pad2d = _padding(aten.reflection_pad2d.default, aten.reflection_pad2d_backward.default)
reflection_pad3d = _padding(aten.reflection_pad3d.default, aten.reflection_pad3d_backward.default)
replication_pad1d = _padding(aten.replication_pad1d.default, aten.replication_pad1d_backward.default)
replication_pad2d = _padding(aten.replication_pad2d.default, aten.replication_pad2d_backward.default)
replication_pad3d = _padding(aten.replication_pad3d.default, aten.replication_pad3d_backward.default)


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default, formula="x̄ = ȳ shuffled back")
def channel_shuffle(adjoint, y, x, groups):
    return aten.channel_shuffle(adjoint, x.shape[1] // groups)
