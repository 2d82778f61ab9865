"""Fused kernels: small functions of ATen operators that Inductor compiles, each on its own.

A planned program defines the kernels it calls above the step, and they run as what they are::

    @fused
    def fused_mul_tanh(x0: "float32[64, 64]", x1: "float32[64, 64]"):
        tanh = torch.tanh(x1)
        mul = torch.mul(x0, tanh)
        return (mul,)

Each kernel is compiled apart, so that what a plan computes twice is computed twice: inside one graph Inductor merges
identical operators, and a recomputation would be optimized away. The text says everything about a kernel, the geometry
of its operands included, so equal texts are one kernel: the blocks of a network share theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd._torch import inductor_function, last_passes
from memograd.errors import BackendError
from memograd.graph.printing import HEADER
from memograd.graph.tanh_by_exp import tanh_by_exp
from memograd.targets import Target

_COMPILED: dict[str, Callable[..., Any]] = {}  # by text
_TEXTS: dict[str, str] = {}  # by name


class Kernel(Target):
    """A fused kernel: ``kernel(*operands)`` returns the tuple of its results, each in memory of its own."""

    needs = "from memograd.graph.kernels import fused\n\n"

    def __init__(self, body: str, hint: str) -> None:
        """``body``: parameters and statements, from the opening parenthesis on; ``hint``: operators, for the name."""
        digest = hashlib.sha256(body.encode()).hexdigest()
        self.__name__ = hint[:40].strip("_")  # what fx calls its results after
        self.name = f"fused_{self.__name__}_{digest[:8]}"
        self.text = f"@fused\ndef {self.name}{body}"
        self.definition = f"{self.text}\n"
        known = _TEXTS.setdefault(self.name, self.text)
        if known != self.text:
            raise BackendError(f"two kernels are called {self.name}")  # 32 equal bits of a hash

    def __call__(self, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(*operands)

    @property
    def function(self) -> Callable[..., Any]:
        return _COMPILED[self.text]

    def compile(self, operands: Sequence[torch.Tensor]) -> None:
        """Compile for operands of this geometry, once in a process (seconds; Inductor keeps the outcome on disk).

        Raises:
            BackendError: Inductor cannot.
        """
        if self.text not in _COMPILED:
            try:
                function, options = _defined(self.text, self.name), last_passes(tanh_by_exp)
                _COMPILED[self.text] = inductor_function(function, operands, options)
            except Exception as error:  # whatever a compiler may run into
                reason = (str(error).splitlines() or [""])[0]
                raise BackendError(f"Inductor cannot compile {self.name}: {reason}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.name


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled kernel that ``function`` defines, or ``function`` itself where it was not compiled in this process:
    a planned program that was read from a file can then still be run, operator by operator."""
    return _COMPILED.get(_TEXTS.get(function.__name__, ""), function)


def _defined(text: str, name: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {"fused": lambda function: function}
    exec(compile(HEADER + text, f"<memograd {name}>", "exec"), scope)  # our own printer wrote it
    return scope[name]
