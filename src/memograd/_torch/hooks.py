"""What users registered on tensors, modules and optimizers.

PyTorch has functions to register a hook and none to ask for one.

- ``register_hook``: what all hooks on nodes of autograd's graph go by.
- ``hooks_of`` / ``has_hooks`` / ``without_hooks``: those of a tensor's gradient.
- ``module_hooks`` / ``hooks_by_kind`` / ``forward_hooks``: those of modules, and those for every module there is.
- ``has_step_hooks`` / ``note_step``: nothing public says whether an optimizer has hooks, or tells schedulers that it
  has stepped.
- ``saved_tensor_hooks``: nothing public says whether there are some.
- ``without_saved_tensor_hooks``: the public way to keep them out (``disable_saved_tensors_hooks``) raises an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, optim
from torch.nn.modules import module as _module

register_hook = torch.autograd.Function._register_hook  # pyright: ignore[reportAttributeAccessIssue]


def hooks_of(tensor: torch.Tensor) -> Any:
    """The table of the hooks on ``tensor``'s gradient; None where there was never one."""
    return tensor._backward_hooks


def has_hooks(leaf: torch.Tensor) -> bool:
    """Whether a ``register_hook`` or ``register_post_accumulate_grad_hook`` of the user's waits for its gradient."""
    return bool(leaf._backward_hooks) or bool(leaf._post_accumulate_grad_hooks)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def without_hooks(leaves: Iterable[torch.Tensor]) -> Iterator[None]:
    """Gradients computed inside do not pass through the users' hooks of these tensors."""
    tables = [table for t in leaves for table in (t._backward_hooks, t._post_accumulate_grad_hooks) if table]
    held = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in zip(tables, held, strict=True):
            table.update(hooks)


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """What autograd saves inside does not pass through the hooks that stand around (checkpoints)."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:  # pyright: ignore
        yield
        return
    saved: list[torch.Tensor] = []  # a tensor in a hook's hands may hold itself: emptied afterwards

    def pack(tensor: torch.Tensor) -> int:
        saved.append(tensor)
        return len(saved) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, saved.__getitem__):
        try:
            yield
        finally:
            saved.clear()


_HOOKS = ("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks")


def module_hooks(root: nn.Module) -> list[dict[int, Any]]:
    """The tables of hooks around forward and backward of all modules below ``root``, and of those for every module
    there is; their keys tell one hook from another."""
    tables = [getattr(_module, f"_global_{name}") for name in _HOOKS]
    return tables + [getattr(m, f"_{name}") for m in root.modules() for name in _HOOKS]


def hooks_by_kind(module: nn.Module | None) -> list[tuple[str, Any]]:
    """(kind, hook) for the hooks of ``module`` itself; None: those for every module there is. Nothing public lists
    them, and who is asked what becomes of hooks must know which there are."""
    tables = {
        kind: getattr(module, f"_{kind}") if module is not None else getattr(_module, f"_global_{kind}")
        for kind in _HOOKS
    }
    return [(kind, hook) for kind, table in tables.items() for hook in table.values()]


def forward_hooks() -> list[Any]:
    """The hooks around the forward of every module there is."""
    if not (_module._global_forward_pre_hooks or _module._global_forward_hooks):
        return []
    return [*_module._global_forward_pre_hooks.values(), *_module._global_forward_hooks.values()]


def has_step_hooks(optimizer: optim.Optimizer) -> bool:
    """Whether hooks of the user's wait for ``optimizer.step()``. (One around another optimizer, which takes over its
    ``param_groups`` and never was an ``Optimizer.__init__``'s, has no place for any.)"""
    tables = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
    return any(getattr(optimizer, table, None) for table in tables)


def note_step(optimizer: optim.Optimizer) -> None:
    """The optimizer has stepped, as far as schedulers are concerned: they warn of those that have not."""
    optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]


def saved_tensor_hooks() -> tuple[Any, Any] | None:
    """What packs and unpacks the tensors that autograd saves in this thread (``saved_tensors_hooks``)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore[reportAttributeAccessIssue]
