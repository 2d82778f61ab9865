"""A program that raised while it was captured: does it raise in plain PyTorch, too?

An exception of the user's own (``KeyError``, a check that fails) belongs to whoever calls the program and may be
waiting for it, and so do the words in which PyTorch refuses an operator. A trace can also raise where PyTorch does
not, and that is an error of ours. The two are told apart by running the program once more, on values, as if it had not
been run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from memograd._torch import copy_of, pytree, redirected
from memograd.tracing.registered import unregistered
from memograd.tracing.under_way import TURN, plainly
from memograd.tracing.undisturbed import Contents, Generators, taken_back

_MARK = "_raised_by_pytorch"


def raised_by_pytorch(
    program: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wrt: Collection[int],
    kind: type[Exception],
    tensors: Iterable[torch.Tensor],
) -> Exception | None:
    """What ``program(*args, **kwargs)`` raises in plain PyTorch, if that is of this ``kind``; None if it is not.

    Args:
        wrt: which leaves of the arguments require gradients, by position.
        tensors: what the program may write to, besides its arguments and its own parameters and buffers.
    """
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    others = [x for x in leaves if not isinstance(x, torch.Tensor)]
    held = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
    tensors = list(tensors)
    leaves = [_given(x, i in wrt) if isinstance(x, torch.Tensor) else x for i, x in enumerate(leaves)]
    own_args, own_kwargs = pytree.tree_unflatten(leaves, spec)
    with TURN:
        generators, contents = Generators(program), Contents([*held, *tensors])
        try:
            with (
                generators.again(),
                redirected(),
                plainly(),
                taken_back(program, *others),
                unregistered([*held, *tensors]),
                torch.set_grad_enabled(torch.is_grad_enabled()),
            ):
                program(*own_args, **own_kwargs)
        except Exception as error:
            return _marked(error) if type(error) is kind else None
        finally:
            contents.put_back()
    return None


def _marked(error: Exception) -> Exception:
    with suppress(AttributeError, TypeError):  # a class of the user's may forbid it
        setattr(error, _MARK, True)
    return error


def is_raised_by_pytorch(error: Exception) -> bool:
    """Whether it is what ``raised_by_pytorch`` found: who may not undo what a failed run leaves lets it fail there."""
    return getattr(error, _MARK, False)


def _given(tensor: torch.Tensor, differentiable: bool) -> torch.Tensor:
    """A copy that the program may write to; no leaf where it requires a gradient, as a leaf cannot be written to."""
    copy = copy_of(tensor) if tensor.layout is torch.strided else tensor.detach()
    if not (differentiable or tensor.requires_grad):
        return copy
    with torch.enable_grad():
        return copy.requires_grad_().clone()
