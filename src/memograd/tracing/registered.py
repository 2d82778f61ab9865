"""Hooks that a program registers on what it was given: an argument, a parameter, a tensor with a history that it holds.

Where a graph runs as one step of autograd's (``mg.wrap``), such a tensor has a gradient from elsewhere, too: the loop
uses it again, calls the model on it twice, has a hook of its own there. PyTorch's hook hears all of that, and stays
with the tensor. So it is no part of the graph: each run registers it on the tensor of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

_REGISTER = torch.Tensor.register_hook
_OTHERS = (_REGISTER, torch.Tensor.register_post_accumulate_grad_hook)


@dataclass(frozen=True)
class Registration:
    """One hook of a program.

    Attributes:
        name: of the input it is registered on.
        hook: how a run makes it, of what the values are made that a run leaves.
        handle: what the capture had for it.
    """

    name: str
    hook: Callable[[Any], Any]
    handle: RemovableHandle


class Registered:
    """What one capture has registered: stand-ins, hooks and their handles."""

    def __init__(self) -> None:
        self.all: list[tuple[torch.Tensor, Any, RemovableHandle]] = []

    def standing(self) -> list[tuple[torch.Tensor, Any, RemovableHandle]]:
        """Those that the program has not removed again."""
        return [entry for entry in self.all if entry[2].id in (entry[2].hooks_dict_ref() or ())]


def register(registrations: Sequence[Registration], run: Any) -> None:
    """Let the tensors of this run have these hooks. Handles are there before the hooks, which may hold them."""
    pairs = [(r, run.inputs[r.name].register_hook(_nothing)) for r in registrations]
    run.made.update({id(r.handle): handle for r, handle in pairs})
    for r, handle in pairs:
        handle.hooks_dict_ref()[handle.id] = r.hook(run)


def _nothing(gradient: torch.Tensor) -> None:
    """Stands in the place of a hook until that is there."""


@contextmanager
def unregistered(tensors: Collection[Any]) -> Iterator[None]:
    """The hooks that are registered inside on one of ``tensors`` are gone afterwards."""
    noting = _Noting({id(t) for t in tensors})
    try:
        with noting:
            yield
    finally:
        for handle in noting.handles:
            handle.remove()


class _Noting(TorchFunctionMode):
    def __init__(self, ids: set[int]) -> None:
        super().__init__()
        self.ids = ids
        self.handles: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _OTHERS and id(args[0]) in self.ids:
            self.handles.append(out)
        return out
