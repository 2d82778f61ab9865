"""Batch normalization of images in training as a compiled loop over channels, with the rectifier behind it.

PyTorch reads a batch four times, and once or twice more for a rectifier; a channel at a time most of that is in the
cache. Sums are of rows, and of those in double precision: as exact as PyTorch's, and other than its in the last bits.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.library import Library

from memograd import c_compiler
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.run.images import WORTH
from memograd.run.threads import in_parts

aten = torch.ops.aten
_FORWARD, _BACKWARD = aten._native_batch_norm_legit_functional.default, aten.native_batch_norm_backward.default
_MASK = aten.threshold_backward.default
_PLANE = 64  # elements at least of a row that is summed: four vectors of sixteen
_SHARE = 1 << 16  # elements, from which another thread is worth waking

_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define(
    "batch_norm(Tensor x, Tensor? w, Tensor? b, Tensor mean, Tensor variance, float momentum, float eps, bool rectify) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "batch_norm_backward(Tensor g, Tensor? rectified, Tensor x, Tensor? w, Tensor mean, Tensor scale, float eps, "
    "bool[3] wanted) -> (Tensor, Tensor, Tensor)"
)


def compiled_batch_norm(graph: Graph) -> Graph:
    """``graph`` with large batch normalizations compiled; as it is where there is no C compiler."""
    norms = {n for n in graph.nodes if _worth(n)}
    if not norms or not _compiles():
        return graph
    rectifiers = {r for n in norms if n.target is _FORWARD and (r := _rectifier(n)) is not None}
    followed = {r.all_input_nodes[0].all_input_nodes[0] for r in rectifiers}
    masks = {m for n in norms if n.target is _BACKWARD and _masks_only(m := n.all_input_nodes[0], n)}

    def visit(new: Rewriting, node: fx.Node) -> Any:
        if node in rectifiers or node in masks:
            return new.where[node.all_input_nodes[0]]
        copy = new.copy(node)
        if node in norms and node.target is _FORWARD:
            x, w, b, mean, variance, _, momentum, eps = copy.args
            copy.args = (x, w, b, mean, variance, momentum, eps, node in followed)
            copy.target = torch.ops.memograd.batch_norm.default
        elif node in norms:
            g, x, w, _, _, mean, scale, _, eps, wanted = copy.args
            by: Any = node.args[0]
            rectified = new.where[by.args[1]] if by in masks else None
            copy.args = (g, rectified, x, w, mean, scale, eps, wanted)
            copy.target = torch.ops.memograd.batch_norm_backward.default
        return copy

    return graph.rewritten(visit)


def _worth(node: fx.Node) -> bool:
    arguments: Any = node.args
    if node.target is _FORWARD:
        x, w, b, _, _, training, *_ = arguments
        return training and _fits(*(v.meta["val"] for v in (x, w, b) if v is not None)) and _large(x.meta["val"])
    if node.target is _BACKWARD:
        g, x, w, _, _, _, _, training, *_ = arguments
        return training and _fits(*(v.meta["val"] for v in (g, x, w) if v is not None)) and _large(x.meta["val"])
    return False


def _fits(*tensors: torch.Tensor) -> bool:
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)


def _large(x: torch.Tensor) -> bool:
    return x.dim() >= 3 and x.numel() >= WORTH and x[0, 0].numel() >= _PLANE


def _rectifier(norm: fx.Node) -> fx.Node | None:
    """What rectifies the results of ``norm``, if nothing else reads them."""
    results = [n for n in norm.users if n.args[1] == 0]
    readers = [r for n in results for r in n.users]
    return readers[0] if len(readers) == 1 and readers[0].target is aten.relu.default else None


def _masks_only(mask: Any, reader: fx.Node) -> bool:
    """Whether ``mask`` is a rectifier's backward that only ``reader`` reads."""
    if mask.target is not _MASK or mask.args[2] != 0 or set(mask.users) != {reader}:
        return False
    g, rectified, _ = mask.args
    values = g.meta["val"], rectified.meta["val"]
    return mask not in reader.args[1:] and _fits(*values) and values[0].shape == values[1].shape


@torch.library.impl(_LIBRARY, "batch_norm", "CPU")
def _batch_norm(
    x: torch.Tensor,
    w: torch.Tensor | None,
    b: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    eps: float,
    rectify: bool,
) -> tuple[torch.Tensor, ...]:
    if not _fits(x, mean, variance, *(t for t in (w, b) if t is not None)):  # it is other than the graph said
        y, *rest = _FORWARD(x, w, b, mean, variance, True, momentum, eps)
        return (y.relu() if rectify else y, *rest)
    y, statistics = torch.empty_like(x), [x.new_empty(x.shape[1]) for _ in range(4)]
    places, sizes = _pointers(x, w, b, mean, variance, y, *statistics), _sizes(x)
    function = _library().memograd_batch_norm
    in_parts(lambda *part: function(*places, *sizes, momentum, eps, rectify, *part), x.shape[1], _least(sizes))
    return (y, *statistics)


@torch.library.impl(_LIBRARY, "batch_norm_backward", "CPU")
def _batch_norm_backward(
    g: torch.Tensor,
    rectified: torch.Tensor | None,
    x: torch.Tensor,
    w: torch.Tensor | None,
    mean: torch.Tensor,
    scale: torch.Tensor,
    eps: float,
    wanted: list[bool],
) -> tuple[torch.Tensor | None, ...]:
    if not _fits(g, x, mean, scale, *(t for t in (rectified, w) if t is not None)):
        g = g if rectified is None else _MASK(g, rectified, 0)
        return _BACKWARD(g, x, w, None, None, mean, scale, True, eps, wanted)
    shapes = (x.shape, x.shape[1], x.shape[1])
    results = [x.new_empty(shape) if asked else None for shape, asked in zip(shapes, wanted, strict=True)]
    sizes, function = _sizes(x), _library().memograd_batch_norm_backward
    masked = None if rectified is None else x.new_empty((torch.get_num_threads(), sizes[0] * sizes[2]))
    operands, own = _pointers(g, rectified, x, w, mean, scale), iter(masked if masked is not None else ())
    gradients = _pointers(*results)

    def part(first: int, last: int) -> None:
        function(*operands, *_pointers(next(own, None)), *gradients, *sizes, first, last)

    in_parts(part, x.shape[1], _least(sizes))
    return tuple(results)


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x[0, 0].numel()


def _least(sizes: tuple[int, int, int]) -> int:
    return _SHARE // max(1, sizes[0] * sizes[2])


def _pointers(*tensors: torch.Tensor | None) -> list[Any]:
    return [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]


@torch.library.impl(_LIBRARY, "batch_norm", "Meta")
def _without_data(x: Any, w: Any, b: Any, mean: Any, variance: Any, *_: Any) -> Any:
    return (torch.empty_like(x), *(x.new_empty(x.shape[1]) for _ in range(4)))


@torch.library.impl(_LIBRARY, "batch_norm_backward", "Meta")
def _backward_without_data(g: Any, rectified: Any, x: Any, w: Any, mean: Any, scale: Any, eps: Any, wanted: Any) -> Any:
    shapes = (x.shape, x.shape[1], x.shape[1])
    return tuple(x.new_empty(shape) if asked else None for shape, asked in zip(shapes, wanted, strict=True))


def _compiles() -> bool:
    try:
        _library()
    except BackendError:
        return False
    return True


@cache
def _library() -> Any:
    library = c_compiler.load(Path(__file__).with_name("batch_norm.c").read_text(), contracted=True)
    pointer, number, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
    forward, backward = library.memograd_batch_norm, library.memograd_batch_norm_backward
    forward.argtypes = [pointer] * 10 + [number] * 3 + [real] * 2 + [ctypes.c_int] + [number] * 2
    backward.argtypes = [pointer] * 10 + [number] * 3 + [number] * 2
    forward.restype = backward.restype = None
    return library
