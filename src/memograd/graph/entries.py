"""What a graph's signature is made of: an entry for each placeholder, one for each result, and how the user's arguments
and results are nested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

InputKind = Literal["parameter", "buffer", "constant", "input", "cotangent", "state"]
OutputKind = Literal["output", "gradient", "mutation", "left", "flag"]


@dataclass(frozen=True)
class Input:
    """One placeholder.

    Attributes:
        name: the user's name: a parameter's dotted path, an argument's name.
        tensor: what it is bound to (parameters, buffers, constants); None for what the caller passes.
        aliases: other names of the same tensor (tied weights).
        fixed: captured as an input that is not differentiated.
        woken: the program lets it require a gradient, which it did not before.
        place: where the tensor it is bound to is looked up at each call (``place.get()``), if the user may have put
            another one there.
        of: whose adjoint it is (cotangents): a result's name, or the name of the input a gradient belongs to.
    """

    kind: InputKind
    name: str
    tensor: torch.Tensor | None = None
    aliases: tuple[str, ...] = ()
    fixed: bool = False
    woken: bool = False
    place: Any = None
    of: str = ""

    @property
    def bound(self) -> torch.Tensor | None:
        """The tensor it is bound to now."""
        return self.tensor if self.place is None else self.place.get()


@dataclass(frozen=True)
class Output:
    """One result.

    Attributes:
        kind: ``output`` (the user's), ``gradient`` (of the input ``name``), ``mutation`` (the new value of the input
            ``name``), ``left`` (what the program leaves behind in some object), or ``flag`` (the largest number of a
            step: where it is not finite, the step must not write anything)
        tracked: whether it required a gradient when PyTorch ran the program; of a mutation, whether the tensor that
            was written to has a history from then on (a parameter that is set under ``no_grad`` has none).
    """

    kind: OutputKind
    name: str
    tracked: bool = False


@dataclass(frozen=True)
class Calling:
    """How the user's arguments and results are nested: pytree specs and the leaves that are no tensors."""

    in_spec: Any
    in_leaves: tuple[Any, ...]  # None where a tensor goes
    in_names: tuple[str, ...]  # one for each leaf
    out_spec: Any
    out_leaves: tuple[Any, ...]  # None where a tensor goes
    tensor_in: tuple[int, ...]  # positions of tensors in in_leaves
    tensor_out: tuple[int, ...]
    in_notes: tuple[dict[str, Any], ...] = ()  # what was noted on these tensors: ``x.scale = 2``
    united: bool = False  # what was one tensor in several places at capture was one for the program
