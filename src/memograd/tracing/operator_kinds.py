"""Kinds of ATen operators that are recorded in ways of their own: questions, looks at values, indices, new memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from memograd._torch import has_own_kernel, is_composite, pytree, schema_of
from memograd.tracing.shapes import rank_decides

aten = torch.ops.aten

# Questions about a tensor, not computations.
QUERIES = frozenset({torch.ops.prim.device.default, aten.is_pinned.default, aten.sym_size.default})

# Operators that take a list of indices, of which some may be masks.
INDEXED = frozenset({aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_})

# Operators whose results have as many elements as the values decide.
DECIDES_SHAPES = frozenset(
    {
        aten._unique,
        aten._unique2,
        aten.bincount,
        aten.masked_select,
        aten.nonzero,
        aten.one_hot,
        aten.repeat_interleave,
        aten.unique_consecutive,
        aten.unique_dim,
        aten.unique_dim_consecutive,
    }
)

# Operators that return a tensor's one number.
NUMBERS = frozenset({aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default})

# Operators that look at whole tensors and return a Python bool, by operators that return tensors.
COMPARISONS = {
    aten.equal.default: lambda x, y: x.shape == y.shape and bool((x == y).all()),
    aten.allclose.default: lambda *args, **kwargs: bool(torch.isclose(*args, **kwargs).all()),
}

# Operators that return memory nobody has written to yet.
MEMORY = frozenset({aten.empty, aten.empty_strided, aten.empty_like, aten.new_empty, aten.new_empty_strided})


@cache
def arrives_whole(func: Any) -> bool:
    """Whether ``func`` is composite (ours are not to be taken apart) and nothing else: nobody does it before in
    inference mode, and its schema owns up to less than it does: ``batch_norm`` to no write, ``dropout`` to no view."""
    return func.namespace != "memograd" and is_composite(func) and not has_own_kernel(func)


def looked_at(func: Any, args: Any, kwargs: Any, out: Any) -> list[tuple[torch.Tensor, str]]:
    """What the program is told of values by an operator that has just run: of which tensors, and "value" or "shape"."""
    if func in NUMBERS:
        return [(args[0], "value")]
    if func is aten._pack_padded_sequence.default:
        return [(args[1], "value")]  # C++ reads the lengths, to call an LSTM for each time step
    if func is aten.linalg_lstsq.default:
        return [(out[1], "shape")] if rank_decides(args[0], kwargs.get("driver")) else []
    if func.overloadpacket in DECIDES_SHAPES:
        return [(result, "shape") for result in pytree.tree_leaves(out)]
    return []


def of_numbers_only(func: Any, args: Any) -> bool:
    """``torch.div(length, 2, rounding_mode="trunc")``: numbers only, which PyTorch takes in a tensor's place."""
    if not args or not isinstance(args[0], int | float | complex):
        return False
    parameters = schema_of(func).arguments
    return isinstance(parameters[0].type, torch.TensorType) and not any(isinstance(a, torch.Tensor) for a in args)
