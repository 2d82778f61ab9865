"""The model that a command works on: what a user's own function without arguments returns."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memograd.errors import MemogradError

if TYPE_CHECKING:
    from torch import nn, optim


@dataclass(frozen=True)
class Task:
    """What a factory returned."""

    model: nn.Module
    criterion: Callable[..., Any] | None
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    optimizer: optim.Optimizer | None = None

    def repeated(self, samples: int) -> Any:
        """The arguments for so many samples: tensors as long as the first one are repeated, or cut."""
        import torch

        from memograd._torch import pytree

        arguments = self.args or dict(self.options)
        tensors = [t for t in pytree.tree_leaves(arguments) if isinstance(t, torch.Tensor) and t.dim()]
        length = len(tensors[0]) if tensors else 0
        if not length:
            raise MemogradError("--largest-batch needs a first tensor with a sample in it to repeat")

        def longer(t: Any) -> Any:
            return t[torch.arange(samples, device=t.device) % length] if t.dim() and len(t) == length else t

        return pytree.tree_map_only(torch.Tensor, longer, arguments)


def load(name: str) -> Task:
    """Call the factory ``PACKAGE.MODULE:FACTORY``; modules in the current directory can be imported.

    Raises:
        MemogradError: there is no such module or function, it raised, or it returned something else.
    """
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise MemogradError(f"{name!r} names no factory: write PACKAGE.MODULE:FACTORY, for example models:small")
    factory = getattr(_imported(module), attribute, None)
    if not callable(factory):
        raise MemogradError(f"module {module} has no function {attribute!r}")
    try:
        task = factory()
    except Exception as error:
        raise MemogradError(f"{name}() raised {type(error).__name__}: {error}") from error
    return _understood(name, task)


def _imported(module: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise MemogradError(
                f"there is no module {missing!r}, neither installed nor in the current directory"
            ) from error
        raise MemogradError(f"importing {module} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _understood(name: str, task: Any) -> Task:
    from torch import nn, optim

    expected = f"{name}() must return (model, args) or (model, criterion, args), with args a tuple (or a dict)"
    optimizer = None
    if isinstance(task, tuple) and len(task) == 4 and isinstance(task[2], optim.Optimizer):
        optimizer, task = task[2], (*task[:2], task[3])
    if not isinstance(task, tuple) or len(task) not in (2, 3):
        size = f" of {len(task)}" if isinstance(task, tuple) else ""
        raise MemogradError(f"{expected}, but it returned a {type(task).__name__}{size}")
    model, criterion, args = task[0], task[1] if len(task) == 3 else None, task[-1]
    if not isinstance(model, nn.Module):
        raise MemogradError(f"{expected}; its model is a {type(model).__name__}, not an nn.Module")
    if criterion is not None and not callable(criterion):
        raise MemogradError(f"{expected}; its criterion is a {type(criterion).__name__}, which cannot be called")
    if isinstance(args, Mapping):
        return Task(model, criterion, (), args, optimizer)
    if not isinstance(args, (tuple, list)):
        raise MemogradError(f"{expected}; its args are a {type(args).__name__}")
    return Task(model, criterion, tuple(args), {}, optimizer)
