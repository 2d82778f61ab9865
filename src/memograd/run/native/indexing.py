"""What reads by an index: where one is out of range the step stops as PyTorch does, and writes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from memograd.run.native.emit import Builder, kernel
from memograd.run.native.values import Body, Indexed, Value, View, loops

aten = torch.ops.aten


@kernel(aten.index_select.default)
def index_select(b: Builder, node: fx.Node, x: Value, dim: int, index: Value) -> Indexed:
    source, where, shape = _with_rows(b, x), b.view(index), tuple(node.meta["val"].shape)
    dim = dim % max(len(shape), 1)
    within(b, node, where, source.shape[dim])

    def element(body: Body, i: tuple[str, ...]) -> str:
        row = wrapped(body, where, (i or ("0",))[dim : dim + 1] if where.shape else (), source.shape[dim])
        return source.at(body, (*i[:dim], row, *i[dim + 1 :]))

    return Indexed(shape, x.dtype, element)


@kernel(aten.gather.default)
def gather(b: Builder, node: fx.Node, x: Value, dim: int, index: Value, **_: Any) -> Indexed:
    source, where, shape = _with_rows(b, x), b.view(index), tuple(node.meta["val"].shape)
    dim = dim % max(len(shape), 1)
    within(b, node, where, source.shape[dim])

    def element(body: Body, i: tuple[str, ...]) -> str:
        row = wrapped(body, where, i, source.shape[dim])
        return source.at(body, (*i[:dim], row, *i[dim + 1 :]))

    return Indexed(shape, x.dtype, element)


@kernel(aten.embedding.default)
def embedding(b: Builder, node: fx.Node, weight: Value, index: Value, *_: Any) -> Indexed:
    source, where = b.view(weight), b.view(index)
    within(b, node, where, source.shape[0])

    def element(body: Body, i: tuple[str, ...]) -> str:
        return source.at(body, (wrapped(body, where, i[:-1], source.shape[0]), i[-1]))

    return Indexed(tuple(node.meta["val"].shape), weight.dtype, element)


def _with_rows(b: Builder, x: Value) -> View:
    """``x`` in memory; a number is a vector of one element."""
    view = b.view(x)
    return view if view.shape else View((1,), view.dtype, view.buffer, view.offset, (1,))


def wrapped(body: Body, index: View, at: tuple[str, ...], size: int) -> str:
    """An index read from a tensor, kept inside the memory: the step with a bad one goes on to its end."""
    text = index.at(body, at)
    return body.let((index, at, size), torch.int64, f"({text} < 0 || {text} >= {size}) ? 0 : {text}")


def within(b: Builder, node: fx.Node, index: View, size: int, besides: int | None = None) -> None:
    """The step stops where an element of ``index`` is outside of 0 ... ``size`` - 1 and is not ``besides``."""
    b.indexed.append(f"index out of range: {node.target} has {size} to choose from{_place_of(node)}")
    names = [f"n{d}" for d in range(len(index.shape))]
    apart = "" if besides is None else f" && t != {besides}"
    lines = [f"const long long t = {index.ref(tuple(names))};",
             f"if ((t < 0 || t >= {size}){apart}) out_of_range = {len(b.indexed)};"]  # fmt: skip
    b.add(["{", *loops(index.shape, names, lines), "}"], {index.buffer}, work=index.numel)


def _place_of(node: fx.Node) -> str:
    module, source, line = (node.meta.get(k) for k in ("module", "source", "line"))
    return (f", in module {module!r}" if module else "") + (f", at {source} ({line})" if source else "")
