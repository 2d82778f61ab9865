"""What the nodes of a graph are as tensors: which ones look at memory of another node, and which have their own."""

from __future__ import annotations

import operator

import torch
from torch import fx

from memograd._torch import schema_of

# Views whose schema does not say so: PyTorch trusts that nobody writes into them.
_SILENT_VIEWS = (
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.unsafe_split.Tensor,
    torch.ops.aten.unsafe_split_with_sizes.default,
    torch.ops.aten.unsafe_chunk.default,
)

# Their result has a copy of the whole storage that the first operand looks at, however little of it that is.
_STORAGE_COPIES = (
    torch.ops.aten.copy.default,
    torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select_scatter.default,
    torch.ops.aten.diagonal_scatter.default,
    torch.ops.aten.as_strided_scatter.default,
)


def viewed(node: fx.Node) -> fx.Node | None:
    """The node whose memory ``node`` looks at; None when it has memory of its own. A part of an operator with several
    results looks at that operator."""
    if node.target is operator.getitem:
        return node.args[0]  # pyright: ignore[reportReturnType]
    if node.target in _SILENT_VIEWS:
        return node.args[0]  # pyright: ignore[reportReturnType]
    schema = schema_of(node.target)
    if schema is None or not any(r.alias_info is not None for r in schema.returns):
        return None
    for argument, given in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and isinstance(given, fx.Node):
            return given
    return None


def is_view(node: fx.Node) -> bool:
    """Whether a node is made by views alone, without any operator that allocates."""
    base = viewed(node)
    return base is not None and (node.target is not operator.getitem or is_view(base))


def owner(node: fx.Node) -> fx.Node:
    """The node whose memory ``node`` looks at, through views of views; itself where it has memory of its own."""
    while is_view(node) and (base := viewed(node)) is not None:
        node = base
    return node


def tensors_of(node: fx.Node) -> list[torch.Tensor]:
    """The results of a node."""
    value = node.meta["val"]
    return [t for t in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(t, torch.Tensor)]


def copies_storage(node: fx.Node) -> bool:
    """Whether the result has all the bytes of the storage that the first operand lies in. (What repeats elements is
    copied one by one instead.)"""
    if node.target not in _STORAGE_COPIES:
        return False
    like: torch.Tensor = node.args[0].meta["val"]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    return like.numel() > 0 and all(step or n == 1 for n, step in zip(like.shape, like.stride(), strict=True))
