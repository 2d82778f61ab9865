"""Regions as C: one loop over the elements, each read once and written once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

from memograd import c_compiler
from memograd.graph.graph import Graph
from memograd.run.native.emit import KERNELS, Builder
from memograd.run.native.pointwise import pointwise
from memograd.run.native.values import C_TYPES, Body, Index, Lazy, Value
from memograd.run.updates.regions import Region

# The elements of what is written are those that were read: nothing carries over from one to the next.
_DRIVER = """
struct memograd_task {{ long kernel, at, first, last; }};

void memograd_updates(void **p, const struct memograd_task *t, long count) {{
    for (; count > 0; --count, ++t) switch (t->kernel) {{
{cases}
    }}
}}
"""


class Task(ctypes.Structure):
    """``struct memograd_task``: which kernel, where its pointers begin, which elements."""

    _fields_ = [(name, ctypes.c_long) for name in ("kernel", "at", "first", "last")]


@dataclass(eq=False)
class Named(Value):
    """A variable of the loop, or of the function around it."""

    name: str

    def at(self, body: Body, index: Index) -> str:
        return self.name

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        return True


class Elements(Builder):
    """Writes formulas only; nothing is stored before the end."""

    def __init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}

    def lazy(self, shape: Any, dtype: torch.dtype, compute: torch.dtype | None, write: Any, *operands: Value) -> Lazy:
        return Lazy(tuple(shape), dtype, operands, write, compute)


@cache
def _fused() -> dict[Any, str]:
    """What PyTorch's kernels compute with fused multiply-adds, where they have them: with one rounding less."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return {}
    aten = torch.ops.aten
    near = "(({c} < 0 ? -{c} : {c}) < (T)0.5)"
    lerp = f"({near} ? @fma({{c}}, {{b}} - {{a}}, {{a}}) : @fma({{c}} - (T)1, {{b}} - {{a}}, {{b}}))"
    addcmul = "@fma({d} * {b}, {c}, {a})"
    return {aten.lerp.Scalar: lerp, aten.addcmul.default: addcmul}


def _emit(writer: Elements, node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), writer.values.__getitem__)  # pyright: ignore
    if (text := _fused().get(node.target)) is None:
        return KERNELS[node.target](writer, node, *args, **kwargs)
    if node.target is torch.ops.aten.addcmul.default and len(args) == 3:
        args = (*args, kwargs.get("value", 1))
    return pointwise(writer, node, text, *args)


def kernel(region: Region, graph: Graph, name: str) -> str:
    """The C function ``name(p, first, last)`` of a region; ``p`` points to what it reads whole, to the numbers, and to
    what it writes."""
    writer, body = Elements(), Body()
    head, inner = [], []
    for k, node in enumerate(region.wholes):
        c = C_TYPES[node.meta["val"].dtype]
        head.append(f"const {c} *in{k} = p[{k}];")
        inner.append(f"const {c} x{k} = in{k}[i];")
        writer.values[node] = Named(tuple(region.like.shape), node.meta["val"].dtype, f"x{k}")
    for k, node in enumerate(region.numbers):
        c = C_TYPES[node.meta["val"].dtype]
        head.append(f"const {c} n{k} = *(const {c} *)p[{len(region.wholes) + k}];")
        writer.values[node] = Named((), node.meta["val"].dtype, f"n{k}")
    for node in region.nodes:
        writer.values[node] = _emit(writer, node)
    first, last = len(region.wholes) + len(region.numbers), []
    for k, node in enumerate([*(graph.results[at] for at in region.results), *region.exports]):
        value = writer.values[node]
        c = C_TYPES[value.dtype]
        head.append(f"{c} *out{k} = p[{first + k}];")
        last.append(f"out{k}[i] = {value.at(body, 'i')};")
    loop = ["#pragma omp simd", "for (long i = first; i < last; ++i) {", *inner, *body.lines, *last, "}"]
    return "\n".join([f"static void {name}(void **p, long first, long last) {{", *head, *loop, "}"])


def compiled(regions: Sequence[Region], graph: Graph) -> tuple[Any, list[int]]:
    """The compiled function ``memograd_updates`` and for each region the number of its kernel: parameters of the same
    kind share one.

    Raises:
        BackendError: no compiler, or it fails.
    """
    bodies = [kernel(r, graph, "KERNEL") for r in regions]
    texts = list(dict.fromkeys(bodies))
    cases = [f"        case {k}: kernel{k}(p + t->at, t->first, t->last); break;" for k in range(len(texts))]
    written = [text.replace("KERNEL", f"kernel{k}", 1) for k, text in enumerate(texts)]
    library = c_compiler.load("\n".join([*written, _DRIVER.format(cases="\n".join(cases))]))
    function = library.memograd_updates
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return function, [texts.index(b) for b in bodies]
