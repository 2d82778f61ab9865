"""A backward that somebody has written for autograd, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class Ref(NamedTuple):
    """A tensor by where it stands among the operands of a call; where ``output``: the call's own result."""

    where: str
    at: int


class Place(NamedTuple):
    """How the program saw an operand: whether it required a gradient, and was a leaf, and whether its memory was
    given to the program (a parameter, a buffer, an argument)."""

    requires_grad: bool
    is_leaf: bool
    given: bool = False


class Hidden(NamedTuple):
    """A parameter into which a backward may accumulate: the user's own, or the stand-in that the program used."""

    tensor: torch.Tensor
    ref: Ref
    users: bool


class Backward(Protocol):
    """What is run."""

    name: str
    source: str
    once: bool  # autograd refuses to differentiate it
    places: dict[str, list[Place]]  # of inputs and saved tensors
    hidden: tuple[Hidden, ...]
    foreign: tuple[tuple[torch.Tensor, Ref], ...]  # tensors it may come upon in objects and closures

    def run(self, adjoints: list[Any], needed: list[bool], tensor_of: Callable[[Ref], torch.Tensor]) -> list[Any]:
        """One adjoint (or None) for each input."""
        ...

    def reads(self) -> list[Ref]:
        """The operands that it may read, but for adjoints."""
        ...

    def roots(self) -> list[Any]:
        """The functions of the user's that it calls, and what these are given besides tensors."""
        ...

    def at_run_time(self) -> list[Any]:
        """It is called when the graph runs. Returns the objects of PyTorch's that gradients lie in for it by then."""
        ...


@dataclass(frozen=True)
class Operands:
    """Those of a call's node, its results ``y`` and their adjoints, and which inputs are differentiated."""

    needed: list[bool]
    adjoint: Sequence[Any]
    y: Sequence[Any]
    inputs: Sequence[torch.Tensor]
    hidden: Sequence[torch.Tensor]
    results: Sequence[torch.Tensor]
    saved: Sequence[torch.Tensor]

    def of(self, ref: Ref) -> torch.Tensor:
        return (self.y if ref.where == "output" else getattr(self, ref.where))[ref.at]
