"""A graph as ``vmap`` can run it, and which cannot be run so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import fx

from memograd._torch import has_batching_rule
from memograd.errors import CaptureError
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting

aten = torch.ops.aten
_BY_MEMORY = (aten.as_strided.default, aten.as_strided_scatter.default)  # what they read depends on strides
_VIEWS = (aten.view.default, aten._unsafe_view.default)
_BY_INDEX = (aten.index_select.default, aten.index_copy.default)
_WRONG = (aten._cdist_backward.default,)  # their batching rules give wrong numbers where some operands are no batch


def for_batches(graph: Graph) -> Graph:
    """``graph`` as ``vmap`` can run it, with the same values.

    A batch is not laid out as its samples are, so a view may have to be a copy; what is written may be a batch where
    the tensor that it is written to is none; and ``slice_scatter`` of a batch counts neither from the end nor beyond
    it, nor does ``index_select`` take a single number. Where a batching rule is wrong for operands of which some are no
    batch, all are one if any is.
    """
    return graph.rewritten(_for_batch)


def _for_batch(new: Rewriting, node: fx.Node) -> fx.Node:
    copied = new.copy(node)
    args: Any = copied.args
    if copied.target in _VIEWS:
        copied.target = aten.reshape.default
    elif copied.target is aten.copy.default and args[0].meta["val"].shape == args[1].meta["val"].shape:
        copied.target, copied.args = aten._to_copy.default, (args[1],)
        copied.kwargs = {"dtype": copied.meta["val"].dtype}
    elif copied.target is aten.slice_scatter.default:
        copied.args = _within(*args)
    elif copied.target in _BY_INDEX and args[0].meta["val"].dim() and not args[2].meta["val"].dim():
        copied.args = (*args[:2], _before(new, copied, aten.reshape.default, args[2], [1]), *args[3:])
    elif copied.target is aten.view_as_complex.default:
        copied.args = (_before(new, copied, aten.clone.default, args[0], memory_format=torch.contiguous_format),)
    elif copied.target in _WRONG:
        copied.args = _in_one_batch(new, copied)
    return copied


def _in_one_batch(new: Rewriting, node: fx.Node) -> tuple[Any, ...]:
    """The arguments of ``node`` with a zero added to each tensor, which is a batch if any of them is."""
    tensors = [x for x in node.args if isinstance(x, fx.Node)]
    zeros = [_before(new, node, aten.sum.default, _before(new, node, aten.zeros_like.default, x)) for x in tensors]
    zero = reduce(lambda x, y: _before(new, node, aten.add.Tensor, x, y), zeros)
    return tuple([_before(new, node, aten.add.Tensor, x, zero) if x in tensors else x for x in node.args])


def _before(new: Rewriting, node: fx.Node, target: Any, x: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    """``target`` of ``x``, in front of ``node``, which reads it in its place."""
    with new.fx.inserting_before(node):
        call = new.fx.call_function(target, (x, *args), kwargs)
    values = [y.meta["val"] if isinstance(y, fx.Node) else y for y in args]
    call.meta.update(node.meta, val=target(x.meta["val"], *values, **kwargs))
    return call


def _within(x: fx.Node, part: fx.Node, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1):
    """The arguments of ``slice_scatter`` with bounds within the tensor, counted from its beginning."""
    start, end, _ = slice(start, end).indices(x.meta["val"].shape[dim])
    return (x, part, dim, start, max(start, end), step)


def refuse_by_memory(nodes: Sequence[fx.Node]) -> None:
    """A batch lies otherwise in memory than its samples do, and there are operators that read memory as it lies."""
    for node in nodes:
        if node.target in _BY_MEMORY:
            raise CaptureError(
                f"{node.target} at {node.meta.get('source', 'unknown source line')} reads memory as it lies; inside "
                "vmap it lies otherwise than where the function was captured: use views by dimension (unfold, narrow)"
            )


def in_batch(node: fx.Node) -> bool:
    """Whether ``vmap`` runs ``node`` on a whole batch at once."""
    if node.target in _BY_MEMORY:
        return False
    return not isinstance(node.target, torch._ops.OpOverload) or has_batching_rule(node.target)
