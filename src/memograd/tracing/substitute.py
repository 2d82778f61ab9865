"""The user's tensors stay as they are while a program is captured: every call to PyTorch gets stand-ins instead.

Modules keep their parameters, lists and closures their tensors; what the program calls (``x * self.weight``,
``weight.requires_grad_()``, ``buffer.add_(1)``) is called on the stand-ins. So nothing of the user's is ever swapped,
written to or given a history, and other threads, for which this mode is not on, run the same modules meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from memograd._torch import is_wrapped, without_modes
from memograd.errors import CaptureError
from memograd.tracing.provenance import caller
from memograd.tracing.tape import Tape
from memograd.tracing.turned import VIEWS, turned_apart

_T = torch.Tensor

# Questions about a tensor's geometry, which a stand-in has in common with it.
_QUERIES = frozenset(
    {
        *(getattr(_T, name).__get__ for name in ("shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_sparse")),
        *(_T.dim, _T.size, _T.stride, _T.numel, _T.__len__, _T.is_floating_point, _T.is_complex, _T.element_size),
        *(_T.__repr__, _T.__hash__, _T.is_contiguous, _T.storage_offset, torch.is_floating_point, torch.is_tensor),
    }
)
_GRAD = _T.grad.__get__  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
_LEAVE_GRADIENTS = (_T.backward, _T.retain_grad, _T.grad.__set__, _T.grad.__delete__)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
_OWNED = (torch.Tensor, nn.Parameter, nn.Buffer)


class Substitute(TorchFunctionMode):
    """While open, what is called on a tensor of the user's is called on its stand-in on ``tape``.

    Args:
        but: ids of tensors that are left, since autograd knows them for what they are.
        grad_asked: told of tensors whose ``grad`` the program reads.
        gradients: called with what has run that can leave gradients in ``grad``, or take them away, and its arguments.
    """

    def __init__(
        self,
        tape: Tape,
        but: frozenset[int] = frozenset(),
        grad_asked: Callable[[Any], None] | None = None,
        gradients: Callable[[Any, tuple[Any, ...]], None] | None = None,
    ) -> None:
        super().__init__()
        self.tape = tape
        self.but = but
        self.grad_asked = grad_asked
        self.gradients = gradients

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.tape.paused:
            return func(*args, **kwargs)
        if func in _QUERIES:
            return func(*self._present(func, args), **kwargs)
        if self.grad_asked is not None and func == _GRAD and type(args[0]) in _OWNED:
            self.grad_asked(args[0])
        own = [self._own(a) for a in args]
        if func in VIEWS and turned_apart(self.tape, func, tuple(own), kwargs):
            return args[0]
        out = func(*own, **{k: self._own(v) for k, v in kwargs.items()}) if kwargs else func(*own)
        if self.gradients is not None and func in _LEAVE_GRADIENTS:
            self.gradients(func, tuple(own))
        return args[0] if own and out is own[0] else out  # ``x.to(x.device) is x``: the user's, as the user knows it

    def _present(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a tensor that was turned the geometry has changed."""
        if not self.tape.turned or func is _T.__hash__ or not args or not isinstance(args[0], _T):
            return args
        return (self.tape.present(args[0]), *args[1:])

    def _own(self, value: Any) -> Any:
        kind = type(value)
        if kind in _OWNED:
            if id(value) in self.but:
                return value
            if is_wrapped(value):  # by torch.vmap or torch.func.grad: what is inside comes to us later
                return value
            with without_modes():
                return self.tape.stand_in(value)
        if self.tape.turned and isinstance(value, _T):
            return self.tape.present(value)
        if kind is list or kind is tuple:
            return kind([self._own(v) for v in value])
        if kind is dict:
            return {k: self._own(v) for k, v in value.items()}
        return value


class _Joined(torch.autograd.Function):
    """``x``, written to by something that requires a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *adjoints: torch.Tensor) -> Any:
        source, line = caller()
        raise CaptureError(
            f"the program calls backward() at {source} ({line}) on what depends on an argument with a gradient: "
            "captured, what that leaves in .grad would be lost. Use torch.autograd.grad, pass x.detach(), or return "
            "that loss and add it to the one that is trained on"
        )


def with_history(stand_in: torch.Tensor) -> torch.Tensor:
    """``stand_in`` such that it requires a gradient, in its own strides and without being a leaf, which the program
    could not write to."""
    with torch.enable_grad():
        return _Joined.apply(stand_in, torch.ones((), requires_grad=True))  # pyright: ignore[reportReturnType]
