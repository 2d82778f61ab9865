"""Somebody's own Python code as an operator of a graph: it runs when the graph does, on the tensors themselves.

A backward that looks at values (``if grad.norm() > 1``, an adaptive solver, NumPy) goes another way at each step. No
graph says what it computes, but a graph can call it, as autograd does. Whoever has such code enters it here and puts
the operator into the graph; the code goes when nothing holds it any more, so nodes do, in ``meta["code"]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch.library import Library

from memograd._torch import resumed


class Code(Protocol):
    """What is called.

    Attributes:
        name: how errors call it.
    """

    name: str

    def __call__(self, operands: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Results in memory of their own."""
        ...

    def like(self) -> list[torch.Tensor]:
        """Tensors with the geometry of the results, made in the modes that are on."""
        ...


_CODES: WeakValueDictionary[int, Code] = WeakValueDictionary()
_NUMBERS = itertools.count()
_LIBRARY = Library("memograd", "FRAGMENT")

# It may draw random numbers, so it is neither left out, nor moved past others that do, nor merged with its like.
_LIBRARY.define("call(Tensor[] operands, int code) -> Tensor[]", tags=(torch.Tag.nondeterministic_seeded,))


def enter(code: Code) -> int:
    """The number by which graphs refer to ``code``."""
    number = next(_NUMBERS)
    _CODES[number] = code
    return number


def code_of(number: int) -> Code:
    return _CODES[number]


@torch.library.impl(_LIBRARY, "call", "CompositeExplicitAutograd")
def _call(operands: list[torch.Tensor], code: int) -> list[torch.Tensor]:
    with resumed():
        return _CODES[code](operands)


@torch.library.impl(_LIBRARY, "call", "FuncTorchBatchedDecomposition")
def _call_in_batch(operands: list[torch.Tensor], code: int) -> list[torch.Tensor]:
    return _CODES[code](operands)


@torch.library.register_fake("memograd::call", lib=_LIBRARY)
def _call_without_data(operands: list[torch.Tensor], code: int) -> list[torch.Tensor]:
    return _CODES[code].like()


call = torch.ops.memograd.call.default
