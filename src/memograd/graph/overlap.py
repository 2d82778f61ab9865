"""Which tensors have elements in common, by where they lie in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from memograd._torch import has_data, is_wrapped, unseen

Tensor = torch.Tensor


def overlapping(tensors: Sequence[Any]) -> list[tuple[int, int]]:
    """The pairs of positions, smaller one first, whose tensors share an element; one pass over them by address.

    A graph may run inside a program that is captured: it is not that program which asks for addresses here.
    """
    there = [k for k, t in enumerate(tensors) if _has_memory(t)]
    with unseen():
        return list(_pairs(tensors, there))


def _pairs(tensors: Sequence[Any], there: list[int]) -> Iterator[tuple[int, int]]:
    spans = sorted((*_span(tensors[k]), k) for k in there)
    before: list[tuple[int, int]] = []  # (end, position) of those that may reach further
    for start, end, k in spans:
        before = [(stop, j) for stop, j in before if stop > start]
        for _, j in before:
            if _share(tensors[j], tensors[k]):
                yield min(j, k), max(j, k)
        before.append((end, k))


def _has_memory(tensor: Any) -> bool:
    """No stand-in, nor what one stands in for while it is captured; no batch of ``vmap``; not empty."""
    if not isinstance(tensor, Tensor) or is_wrapped(tensor) or not has_data(tensor):
        return False
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    return tensor.untyped_storage().device.type != "meta"


def _share(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors whose spans meet share an element: exact where both have elements of one size."""
    size, apart = a.element_size(), b.data_ptr() - a.data_ptr()
    if size != b.element_size() or apart % size or (_dense(a) and _dense(b)):
        return True
    first = min(a.data_ptr(), b.data_ptr())
    starts = [(t.data_ptr() - first) // size for t in (a, b)]
    marks = torch.zeros(max(s + _reach(t) for s, t in zip(starts, (a, b), strict=True)), dtype=torch.bool)
    marks.as_strided(a.shape, a.stride(), starts[0]).fill_(True)
    return bool(marks.as_strided(b.shape, b.stride(), starts[1]).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of its first byte, and of the one behind its last."""
    first = tensor.data_ptr()
    return first, first + _reach(tensor) * tensor.element_size()


def _reach(tensor: Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _dense(tensor: Tensor) -> bool:
    return _reach(tensor) == tensor.numel()
