"""What a node of the graph is while C is written for it: a view of memory, a number, or a formula not yet stored.

Views (``t``, ``expand``, ``slice``) are strides and an offset, resolved here and never copied. A ``Lazy`` value is a
formula of one element in terms of the same element of its operands; asked for an element inside a loop, it writes the
formula into that loop. That is all there is to fusion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "long long",
    torch.int32: "int",
    torch.bool: "unsigned char",
}
FLOATS = (torch.float32, torch.float64)

# An element of a value: one C index for each dimension, or one running index over a contiguous value.
Index = tuple[str, ...] | str


@dataclass(eq=False)
class Buffer:
    """Memory: input or output number ``number`` of the program, or a temporary of the arena."""

    kind: str  # "in", "out" or "tmp"
    number: int
    numel: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.kind}{self.number}"

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


class Body:
    """The lines of an innermost loop. Remembers which elements it has already computed.

    With ``ahead`` tensors of one element are read in front of the loop (``head``): compilers leave a loop without
    vectors where they cannot tell that it does not write what it reads again and again.
    """

    def __init__(self, ahead: bool = False) -> None:
        self.ahead = ahead
        self.head: list[str] = []
        self.lines: list[str] = []
        self.reads: set[Buffer] = set()
        self._known: dict[Any, str] = {}

    def let(self, key: Any, dtype: torch.dtype, text: str) -> str:
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = f"e{len(self._known)}"
            self.lines.append(f"const {C_TYPES[dtype]} {name} = {text};")
        return name

    def before(self, key: Any, dtype: torch.dtype, text: str) -> str:
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = f"e{len(self._known)}"
            self.head.append(f"const {C_TYPES[dtype]} {name} = {text};")
        return name

    def known(self, key: Any) -> str | None:
        return self._known.get(key)


@dataclass(eq=False)
class Value:
    """A tensor of the graph: ``at`` gives the C expression of one element."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def at(self, body: Body, index: Index) -> str:
        raise NotImplementedError

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        """Can one running index address it in a loop over ``shape``?"""
        raise NotImplementedError


@dataclass(eq=False)
class Const(Value):
    """The same number everywhere."""

    number: float | int | bool

    def at(self, body: Body, index: Index) -> str:
        return literal(self.number, self.dtype)

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        return True


@dataclass(eq=False)
class View(Value):
    """Strided memory."""

    buffer: Buffer
    offset: int
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.shape) or self.numel <= 1

    def at(self, body: Body, index: Index) -> str:
        body.reads.add(self.buffer)
        if body.ahead and self.numel == 1:
            return body.before((self.buffer, self.offset), self.dtype, f"{self.buffer.name}[{self.offset}]")
        return self.ref(index)

    def ref(self, index: Index) -> str:
        """The element as something one can also assign to."""
        if isinstance(index, str):
            return f"{self.buffer.name}[{self.offset}{'' if self.numel == 1 else ' + ' + index}]"
        terms = [str(self.offset)] if self.offset else []
        terms += [i if s == 1 else f"{i}*{s}L" for i, s in zip(index, self.strides, strict=True) if s and i != "0"]
        return f"{self.buffer.name}[{' + '.join(terms) or '0'}]"

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        return self.numel == 1 or (self.shape == shape and self.contiguous)


@dataclass(eq=False)
class Lazy(Value):
    """A formula of one element: ``formula`` gets the C expressions of the operands' elements, cast to ``compute``."""

    operands: tuple[Value, ...]
    formula: Callable[..., str]
    compute: torch.dtype | None = None  # None: leave the operands in their own dtypes
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = 1 + sum(o.size for o in self.operands if isinstance(o, Lazy))

    def at(self, body: Body, index: Index) -> str:
        if (name := body.known((self, index))) is not None:
            return name
        args = []
        for operand in self.operands:
            text = operand.at(body, fit(index, operand.shape))
            args.append(cast(text, operand.dtype, self.compute or operand.dtype))
        return body.let((self, index), self.dtype, self.formula(*args))

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        return all(o.runs_over(shape) for o in self.operands)


@dataclass(eq=False)
class Indexed(Value):
    """A value whose element depends on its index in another way (gather, arange, padding)."""

    element: Callable[[Body, tuple[str, ...]], str]

    def at(self, body: Body, index: Index) -> str:
        assert not isinstance(index, str)
        return body.let((self, index), self.dtype, self.element(body, index))

    def runs_over(self, shape: tuple[int, ...]) -> bool:
        return False


def fit(index: Index, shape: Sequence[int]) -> Index:
    """The index of a broadcast operand of this shape."""
    if isinstance(index, str):
        return index
    if math.prod(shape) == 1:
        return ("0",) * len(shape)
    tail = index[len(index) - len(shape) :]
    return tuple("0" if n == 1 else i for i, n in zip(tail, shape, strict=True))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def cast(text: str, source: torch.dtype, target: torch.dtype) -> str:
    """The C expression ``text`` of dtype ``source`` in dtype ``target``."""
    if source == target:
        return text
    return f"(unsigned char)({text} != 0)" if target == torch.bool else f"({C_TYPES[target]})({text})"


def literal(number: Any, dtype: torch.dtype) -> str:
    """A Python number as a C constant of this dtype."""
    if dtype == torch.bool:
        return str(int(bool(number)))
    if dtype not in FLOATS:
        return f"((long long)({int(number)}LL))" if int(number) > -(2**63) else "(-9223372036854775807LL - 1)"
    number = float(number)
    if math.isfinite(number):
        text = repr(number)
    else:
        text = '__builtin_nan("")' if number != number else f"{'-' if number < 0 else ''}__builtin_inf()"
    return f"(({C_TYPES[dtype]})({text}))"


def formula(text: str, dtype: torch.dtype) -> Callable[..., str]:
    """A formula of ``{a}``, ``{b}``, ``{c}``: ``T`` stands for the C type, ``@exp`` for expf or exp."""
    suffix = "f" if dtype == torch.float32 else ""
    text = re.sub(r"@(\w+)\(", rf"__builtin_\1{suffix}(", text)
    text = re.sub(r"\bT\b", C_TYPES[dtype], text)

    def write(*args: str) -> str:
        return text.format(**dict(zip("abcd", args, strict=False)))

    return write


def loops(shape: Sequence[int], names: Sequence[str], inner: list[str]) -> list[str]:
    """``inner`` inside one loop for each dimension longer than 1 (the names of the others are not used)."""
    heads = [f"for (long {i} = 0; {i} < {n}; ++{i})" for i, n in zip(names, shape, strict=True)]
    return [*(f"{h} {{" for h in heads), *inner, "}" * len(heads)] if heads else ["{", *inner, "}"]
